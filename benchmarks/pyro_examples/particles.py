"""IWAE beside the log-mean-exp of weights by plain Pyro, on the draws that the objective itself made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from program import Call, started
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine.util import site_is_subsample
from result import Maker, Result, Settings, optimizer, relative
from torch import Tensor
from weights import common_scale, evaluating, run, weigh

import pyro_vae

__all__ = ["iwae"]

DRAWS = 5


class _Recorder:
    """The traces of a guide's runs, kept as they are made."""

    def __init__(self, guide: Callable[..., Any]) -> None:
        self.traces: list[Any] = []

        @functools.wraps(guide, assigned=(), updated=())  # shows what it wraps
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with poutine.trace() as tracer:
                result = guide(*args, **kwargs)
            self.traces.append((args, tracer.trace))
            return result

        self.guide = recorded


def iwae(make: Maker, is_changed: bool, settings: Settings) -> Result:
    """IWAE with five particles in SVI; the loss beside the log-mean-exp of five weights of plain Pyro, same draws."""
    program = started(make, 0, is_changed)
    objective = pyro_vae.IWAE(DRAWS)
    call, recorder = program.calls[0], _Recorder(program.guide)
    trained = SVI(program.model, recorder.guide, optimizer(program), loss=objective)
    if not math.isfinite(call(trained.step)):
        return Result(False, "the loss of a step is not finite", "not finite")
    with evaluating(program):
        call(trained.evaluate_loss)
        recorder.traces.clear()
        loss = call(trained.evaluate_loss)
        model_trace, guide_trace = run(program, call)
        reference = {name: guide_trace.nodes[name] for name in _drawn(guide_trace)}
        draws, how = _one_particle_each(recorder.traces, reference, call)
        weights = [weigh(program, call, values) for values in draws]
    if any(
        len({tuple(d[name].tolist()) for d in draws}) > 1 for name in reference if site_is_subsample(reference[name])
    ):
        return Result(False, "each particle has a subsample of its own", "other data for each particle")
    log_w = torch.stack([weight.local for weight in weights]).double()
    shared = {weight.shared.item() for weight in weights}
    if max(shared) - min(shared) > 1e-4 * max(abs(max(shared)), 1.0):
        return Result(False, f"{len(shared)} draws of the globals, expected one for all particles", "globals")
    bound = (log_w.logsumexp(0) - math.log(len(log_w))).sum().item() + weights[0].shared.item()
    expected = -common_scale(model_trace) * bound
    difference = relative(loss, expected)
    text = f"loss {loss:.6g}, by hand {expected:.6g}, apart by {difference:.0e}; particles {how}"
    return Result(difference < 1e-5, text, f"{loss:.6g} ({difference:.0e})")


def _drawn(trace: Any) -> list[str]:
    """Name the sites of a guide that draw, indices of subsampling included."""
    return [n for n, site in trace.nodes.items() if site["type"] == "sample" and not site["is_observed"]]


def _one_particle_each(traces: list[Any], reference: dict[str, Any], call: Call) -> tuple[list[dict[str, Tensor]], str]:
    """Return the draws of each particle, out of the guide's runs, and how they were drawn.

    These are the last five runs if each is one of a particle, and else the last. Runs before them were for something
    else, such as the globals.
    """
    if not reference:
        return [{}] * DRAWS, "without latents"
    last = [{name: trace.nodes[name]["value"] for name in reference} for _, trace in traces[-DRAWS:]]
    shapes = {name: site["value"].shape for name, site in reference.items()}
    if len(last) == DRAWS and all(values[name].shape == shapes[name] for values in last for name in shapes):
        return last, "one by one"
    draws: list[dict[str, Tensor]] = [{} for _ in range(DRAWS)]
    ways = set()
    for name, shape in shapes.items():
        parts, way = _parts(last[-1][name], shape, traces[-1][0], call)
        ways |= {way} - {""}
        for draw, part in zip(draws, parts, strict=True):
            draw[name] = part
    return draws, " and ".join(sorted(ways)) or "all the same"


def _parts(value: Tensor, shape: torch.Size, args: tuple[Any, ...], call: Call) -> tuple[list[Tensor], str]:
    """Cut a draw of all particles into those of each, and name how it was made."""
    if value.shape == shape:  # a global, or the indices of a subsample
        return [value] * DRAWS, ""
    if len(value) == DRAWS and value.numel() == DRAWS * shape.numel():
        return [part.reshape(shape) for part in value], "in a plate"
    if value.shape != (DRAWS * shape[0], *shape[1:]):
        raise AssertionError(f"the harness found a draw of shape {tuple(value.shape)}, of one run {tuple(shape)}")
    in_turn = torch.equal(args[0][: shape[0]], call.args[0])  # x_1, x_2, ..., x_1, x_2, ..., or x_1, x_1, ...
    split = value.reshape(DRAWS, *shape) if in_turn else value.reshape(shape[0], DRAWS, *shape[1:]).transpose(0, 1)
    if torch.equal(value, torch.arange(len(value))):  # the indices of the plate
        split = torch.arange(shape[0]).expand_as(split)
    return list(split), "as repeated data"
