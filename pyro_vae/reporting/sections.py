"""The parts of a report, each of what was found; one that cannot be made raises, and says why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_vae.display import rounded, with_error
from pyro_vae.errors import pyro_error_reason
from pyro_vae.reporting.charts import bound_by_epoch, kl_by_unit, spread
from pyro_vae.reporting.findings import Findings
from pyro_vae.reporting.own_pairs import reconstructed, sampled
from pyro_vae.reporting.pictures import Pixels, data_uri, mosaic, pixels, png, thumbnails
from pyro_vae.reporting.subject import LeftOut, first_of
from pyro_vae.runtime.state import seeded

__all__ = ["PARTS", "Section", "attempt"]

Content = dict[str, Any]
_NUM_EXTREMES = 8
_LONGEST_SIDE = 96  # of an image that is shown, in pixels, so that the page stays small
_MOST_CHARTS = 24
_SHOWN_WIDTH = 44  # pixels of the page, at least, for an image


@dataclass(frozen=True)
class Section:
    """A part of the page: what its template shows, or the reason why it is left out."""

    key: str
    title: str
    template: str
    content: Content
    reason: str = ""


def attempt(key: str, title: str, template: str, make: Callable[[], Content]) -> Section:
    """Return a section, or one with the reason why there is none: no part takes the others along."""
    try:
        return Section(key, title, template, make())
    except LeftOut as error:
        return Section(key, title, template, {}, f"{error}.")
    except Exception as error:  # of programs that cannot do this, for instance
        reason = pyro_error_reason(error) or str(error).strip() or type(error).__name__
        return Section(key, title, template, {}, reason.splitlines()[0])


def numbers(found: Findings) -> Content:
    """Return what stands at the top: log p(x) with its error, the ELBO, and how many units are used."""
    evaluation, score = found.evaluation, found.evaluation.importance
    log_p, monte_carlo, over_data, _ = evaluation["log_p"].cells()
    shown = [
        _number("log p(x)", log_p, f"± {monte_carlo} nats, ± {over_data} over data"),
        *_bits(found),
        _number("ELBO", evaluation["elbo"].cells()[0], "nats per datum"),
        _number("test data", _count(found), f"{score.num_particles} importance samples each"),
    ]
    units = found.diagnosis.units
    if units:
        active = sum(found.diagnosis.active_units.values())
        shown.append(_number("active units", f"{active} of {sum(units.values())}", "move with the data"))
    return {"numbers": shown, "sentences": [*filter(None, [evaluation.caveat()]), *found.diagnosis.warnings]}


def _bits(found: Findings) -> list[dict[str, str]]:
    """Return the bits per dimension of a probability, or their bound; a density of no levels has none."""
    score, num_levels = found.evaluation.importance, found.num_levels
    if num_levels is None:
        return []
    of_levels = f" of {num_levels} levels" if num_levels > 1 else ""
    bits = f"{score.bits_per_dim(num_levels):.4f}"
    return [_number("bits per dimension", bits, f"{score.num_dims:.0f} dimensions{of_levels}")]


def _count(found: Findings) -> str:
    number, num_all = len(found.subject.values), found.subject.num_all
    return str(number) if number == num_all else f"{number} of {num_all}"


def _number(name: str, value: str, unit: str) -> dict[str, str]:
    return {"name": name, "value": value, "unit": unit}


def curves(found: Findings) -> Content:
    """Return the bound by epoch."""
    if not found.subject.records:
        raise LeftOut("no records of the training were given, such as those of metrics.jsonl or of a History")
    return {"charts": [bound_by_epoch(found.subject.records)]}


def evaluation(found: Findings) -> Content:
    """Return the table of all figures with their errors."""
    result = found.evaluation
    rows = [[result.labels[name].strip(), *figure.cells()] for name, figure in result.figures.items()]
    columns = ["", "nats per datum", "± Monte Carlo", "± over data", "data"]
    how = (
        "± Monte Carlo is the standard error of the draws for these very data; ± over data is that of the choice of "
        "the data, and contains the first."
    )
    return {"table": {"caption": "Bounds and log p(x)", "columns": columns, "rows": rows},
            "sentences": [how, *result.sentences()]}  # fmt: skip


def layers(found: Findings) -> Content:
    """Return the KL of each layer, and of each of its units."""
    diagnosis = found.diagnosis
    charts = [
        kl_by_unit(name, kl, found.active(name), index)
        for index, (name, kl) in enumerate(list(diagnosis.kl_per_unit.items())[:_MOST_CHARTS])
    ]
    rows = [
        [name, *rounded(diagnosis.kl[name], diagnosis.kl_error[name]),
         f"{diagnosis.active_units[name]} of {diagnosis.units[name]}" if name in diagnosis.units else "not known"]
        for name in diagnosis.kl
    ]  # fmt: skip
    table = {"caption": "KL by layer", "columns": ["layer", "KL, nats", "± Monte Carlo", "active units"], "rows": rows}
    left_out = len(diagnosis.kl_per_unit) - len(charts)
    sentences = [f"There are no bars for the other {left_out} layers."] if left_out else []
    return {"charts": charts, "table": table, "sentences": [*sentences, *diagnosis.warnings]}


def reliability(found: Findings) -> Content:
    """Return how log p(x) and the Pareto k̂ are spread over the data."""
    score = found.evaluation.log_likelihood
    how = (
        "Across: log p(x) of a test datum, in nats. Up: how many data have about that. A tail on the left are odd data."
    )
    charts = [spread(score.values, "logp", "log p(x), nats", how)]
    sentences = []
    if not score.khat.isnan().all():
        trust = (
            "Across: the Pareto k̂ of the importance weights of a datum. Above 0.7 a few weights outweigh the others: "
            "the estimate is too low, and its error too small."
        )
        charts.append(spread(score.khat, "khat", "Pareto k̂", trust, 0.7))
        if num_unknown := int(score.khat.isnan().sum()):
            sentences.append(f"Pareto k̂ is not known for {num_unknown} of {len(score.khat)} data.")
    else:
        sentences.append(f"Pareto k̂ is not known: it takes more than {score.num_particles} particles.")
    return {"charts": charts, "sentences": sentences}


def reconstructions(found: Findings) -> Content:
    """Return ten data, and what the program makes of their latents."""
    subject = found.subject
    data, x = subject.images()[:10], first_of(subject.x, 10)
    program, rows = subject.program, {}
    with seeded(subject.seed, subject.device):
        if program is None:
            rows["at the means of the latents"] = pixels(reconstructed(subject.model, subject.guide, x))
        else:
            for layer in _some(len(program.latents)):
                above = " and above" if layer < len(program.latents) else ""
                rows[f"from {program.latents[layer - 1]}{above}"] = pixels(program.reconstruct(x, layer=layer))
    whole = mosaic(thumbnails(np.concatenate([data, *rows.values()]), _LONGEST_SIDE), len(data))
    caption = f"First row: test data. Below: the mean of p(x|z), {'; '.join(rows)}. The latents lack what a row lacks."
    alt = f"{len(data)} test images in a row, and below each its reconstruction {', then '.join(rows)}"
    return {"pictures": [_picture(whole, len(data), alt, caption)]}


def _some(num_layers: int) -> range:
    """Return all layers from 1, or a few of many."""
    return range(1, num_layers + 1, 1 if num_layers <= 4 else math.ceil(num_layers / 4))


def samples(found: Findings) -> Content:
    """Return draws of the program."""
    subject = found.subject
    subject.images()
    with seeded(subject.seed, subject.device):
        if subject.program is None:
            drawn = pixels(sampled(subject.model, subject.guide, first_of(subject.x, 40)))
        else:
            drawn = pixels(subject.program.sample(40, mean=True))
    caption = "Draws of z from the prior, and the mean of p(x|z) of each. They should look like the data, and differ."
    whole = mosaic(thumbnails(drawn, _LONGEST_SIDE), 10)
    return {"pictures": [_picture(whole, 10, f"{len(drawn)} images drawn from the model", caption)]}


def _picture(image: Pixels, columns: int, alt: str, caption: str) -> Content:
    scale = max(1, math.ceil(_SHOWN_WIDTH * columns / image.shape[1]))
    return {"uri": data_uri(png(image)), "alt": alt, "caption": caption, "width": image.shape[1] * scale,
            "height": image.shape[0] * scale}  # fmt: skip


def extremes(found: Findings) -> Content:
    """Return the data with the highest and with the lowest log p(x)."""
    subject, score = found.subject, found.evaluation.log_likelihood
    order = score.values.argsort(descending=True)
    most = min(_NUM_EXTREMES, len(order) // 2)
    shown = thumbnails(subject.images(), _LONGEST_SIDE) if subject.shows_images else None
    groups = []
    for title, chosen in (("Highest log p(x)", order[:most]), ("Lowest log p(x)", order.flip(0)[:most])):
        data = []
        for index in chosen.tolist():
            lines = [with_error(score.values[index].item(), score.std_error[index].item()), f"datum {index}"]
            if not score.khat[index].isnan():  # it is infinite where one weight is all there is
                heavy = " †" if score.is_heavy[index] else ""
                lines.append(f"k̂ {score.khat[index]:.2f}{heavy}")
            if subject.labels is not None:
                lines.append(f"class {subject.class_name(int(subject.labels[index]))}")
            uri = None if shown is None else data_uri(png(shown[index]))
            data.append({"uri": uri, "alt": f"Test image {index}", "lines": lines})
        groups.append({"title": title, "data": data})
    lead = (
        "log p(x) in nats with its Monte Carlo error. The lowest are what the model finds odd: rare, badly cut or "
        "wrong data, or what it has not learnt. † marks estimates that are too low for their error, with a k̂ above 0.7."
    )
    if shown is None:
        lead += " The data are no images, and stand here by their index."
    return {"lead": lead, "groups": groups}


PARTS: list[tuple[str, str, str, Callable[[Findings], Content]]] = [
    ("numbers", "At a glance", "numbers.html", numbers),
    ("curves", "Learning curves", "charts.html", curves),
    ("evaluation", "Evaluation", "evaluation.html", evaluation),
    ("reconstructions", "Reconstructions", "pictures.html", reconstructions),
    ("samples", "Samples", "pictures.html", samples),
    ("extremes", "Best and worst test data", "extremes.html", extremes),
    ("layers", "What the latents hold", "charts.html", layers),
    ("reliability", "How far log p(x) can be trusted", "charts.html", reliability),
]
