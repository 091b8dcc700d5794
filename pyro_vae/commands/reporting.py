"""Write the report of a run: one page that needs no other file, with what was learnt, how well, and where to look."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae.commands.runs import Device, best_device, load_data, load_run
from pyro_vae.commands.settings import as_arguments
from pyro_vae.commands.tables import pair_of, table_of
from pyro_vae.data.loading import Splits

__all__ = ["report", "write"]


def report(
    run: str,
    out: str | None = None,
    num_data: int = 1000,
    num_particles: int = 1000,
    embedding: str | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Write report.html: curves, samples, best and worst data, and a map of the latents in which one can walk.

    Parameters
    ----------
    run
        folder that training wrote
    out
        the page; report.html in the folder of the run unless given
    num_data
        score and show only the first so many test data
    num_particles
        importance samples per datum for log p(x)
    embedding
        also write the map as a table, a .parquet file with an image a datum, which Embedding Atlas shows
    seed
        of all that is drawn
    device
        auto takes a GPU where there is one
    """
    for name, value in (("num_particles", num_particles), ("num_data", num_data)):
        if value < 2:
            raise ValueError(f"--{name.replace('_', '-')}: found {value}, expected 2 or more")
    if embedding is not None and not embedding.endswith(".parquet"):
        raise ValueError(f"--embedding: found {embedding}, expected a name that ends in .parquet")
    config, program = load_run(run)
    folder = Path(run)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    options = {"num_data": num_data, "num_particles": num_particles, "embedding": embedding, "seed": seed}
    records = [json.loads(line) for line in lines]
    place = folder / "report.html" if out is None else Path(out)
    write(program.to(best_device(device)), load_data(config), records, config, place, **options)
    if embedding is not None:
        print(f"the map of the latents is in {embedding}")


def write(
    program: Any,
    splits: Splits,
    records: Sequence[Mapping[str, Any]],
    config: dict[str, Any],
    path: Path,
    **options: Any,
) -> None:
    """Write the report of a run, and print where it is and what it lacks."""
    from pyro_vae.reporting import report as make_report  # only here, as it needs matplotlib

    command = shlex.join(["pyro-vae", "train", *as_arguments(config)])
    facts = {name: value for name, value in config.items() if value is not None and name != "table"}
    if (table := table_of(config)) is not None:  # its program takes the rows with their mask
        program = pair_of(program, config)
        facts["columns"] = str(table)
    made = make_report(program, splits, path, history=records, facts=facts, command=command, **options)
    for name, reason in made.left_out.items():
        print(f"the report has no part {name!r}: {reason}", file=sys.stderr)
    print(f"the report is in {path} ({made.num_bytes / 1e6:.1f} MB)")
