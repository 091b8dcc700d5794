"""Write the report of a run, and say what it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch

from pyro_vae.reporting.decoders import Top, latents_of
from pyro_vae.reporting.embedding import write_embedding
from pyro_vae.reporting.explorer import Explorer, explorer_of
from pyro_vae.reporting.findings import Findings
from pyro_vae.reporting.latent_map import map_content
from pyro_vae.reporting.page import render
from pyro_vae.reporting.provenance import provenance
from pyro_vae.reporting.sections import PARTS, Section, attempt
from pyro_vae.reporting.subject import subject_of
from pyro_vae.runtime.arguments import PathLike, Seed, checked
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.state import seeded
from pyro_vae.training.history import History

__all__ = ["Report", "report"]

MOST_BYTES = 5_000_000
_TwoOrMore = Annotated[int, Integers("an integer of 2 or more", 2)]
_FRAME_BYTES = 10_000  # of what stands around the explorer: sliders, the license
_NUM_COMPARED = 100  # points at which the decoder of the page is held against the program


class Report(NamedTuple):
    """A report: its path, its size in bytes, and what it lacks, by name with the reasons."""

    path: Path
    num_bytes: int
    left_out: dict[str, str]


@checked
def report(
    programs: Any,
    data: Any,
    path: PathLike,
    *,
    history: History | Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
    command: str | None = None,
    num_data: _TwoOrMore = 1000,
    num_particles: _TwoOrMore = 1000,
    seed: Seed = 0,
    embedding: PathLike | None = None,
    progress: bool = True,
) -> Report:
    """Write one page on a trained program, which needs no other file and no network, of at most 5 MB.

    It has the learning curves, reconstructions, samples, the best and the worst data, a map of the latents in which one
    can walk, the KL of each unit, and the table of :func:`pyro_vae.evaluate`. What cannot be made for these programs or
    data stands there with its reason.

    Parameters
    ----------
    programs
        One of the package's programs, or a pair ``(model, guide)`` of your own.
    data
        What :func:`pyro_vae.data.load` returned, or test data: a split, a tensor, an array, a tuple or a dictionary.
    path
        Where to write.
    history
        What ``fit`` returned, or its records, for the learning curves.
    facts
        What else is known of the run, by name, such as its settings.
    command
        The command that made the run.
    num_data
        How many of the test data are shown and scored, the first.
    num_particles
        Importance samples of each for log p(x).
    seed
        Of all that is drawn.
    embedding
        Where to write the map as a table, a Parquet file, if anywhere.
    progress
        Show progress bars.

    Raises
    ------
    TypeError
        If the programs or the data are of no kind that is taken.
    ValueError
        If there are fewer than 2 data.
    """
    records = history.records if isinstance(history, History) else history
    shown = {name: str(value) for name, value in (facts or {}).items()}
    with seeded(seed, torch.device("cpu")):  # a split may draw its bits as it is read
        subject = subject_of(programs, data, num_data, records=records, facts=shown, command=command, seed=seed)
    found = Findings(subject, num_particles, progress)
    with torch.no_grad():
        sections = [attempt(key, name, template, partial(make, found)) for key, name, template, make in PARTS]
        sections.append(attempt("made", "How it was made", "provenance.html", partial(provenance, found)))
        explorer, reason = _explorer(found, sections)
        of_map = attempt("map", "Map of the latents", "map.html", partial(map_content, found, explorer, reason))
    sections.insert(5, of_map)
    page = _page(found, sections, None if of_map.reason else explorer)
    write_text(path, page)
    left_out = {each.title: each.reason for each in sections if each.reason}
    if explorer is None:
        left_out["Explorer"] = reason
    if embedding is not None:
        write_embedding(found, Path(embedding))
    return Report(Path(path), len(page.encode()), left_out)


def _page(found: Findings, sections: list[Section], explorer: Explorer | None) -> str:
    subject = found.subject
    name = type(subject.program).__name__ if subject.program is not None else "A model and a guide"
    number = len(subject.values)
    count = str(number) if number == subject.num_all else f"the first {number} of {subject.num_all}"
    subtitle = f"{count} test data of shape {tuple(subject.values.shape[1:])}"
    return render(f"{name} on {subject.name}", subtitle, sections, explorer, import_module("pyro_vae").__version__)


def _explorer(found: Findings, sections: list[Section]) -> tuple[Explorer | None, str]:
    """Return the explorer, in the bytes that the rest of the page leaves, or the reason why there is none."""

    def make() -> dict[str, Any]:
        located = found.located
        if not isinstance(located.top, Top):
            raise located.top
        found.subject.images()
        map_alone = attempt("map", "", "map.html", partial(map_content, found, None, ""))
        rest = len(_page(found, [*sections, map_alone], None).encode())
        z = latents_of(located.top, located.means[:_NUM_COMPARED], found.subject.labels)
        return {"explorer": explorer_of(located.top, z, MOST_BYTES - rest - _FRAME_BYTES)}

    section = attempt("explorer", "", "", make)
    return section.content.get("explorer"), section.reason
