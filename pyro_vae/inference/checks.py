"""What can be found wrong before any work starts: a pair that is none, or data that its likelihood does not cover."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.data.batches import Batches
from pyro_vae.errors import ProgramError
from pyro_vae.inference.annealing import Program, bare
from pyro_vae.inference.frozen import check_runs_again, with_copied_buffers
from pyro_vae.inference.importance import scored_with_constants, trace_pair
from pyro_vae.inference.missing import ObservedOnly, unpack
from pyro_vae.inference.support import check_site, check_values, covers_all, is_constant, is_masked
from pyro_vae.inference.traces import PairTrace, Site, random_sites
from pyro_vae.nn.recipes import placement
from pyro_vae.objectives import Objective
from pyro_vae.runtime.state import evaluating, isolated, seeded

__all__ = ["check_last_batch", "check_program"]


def check_program(
    model: Program,
    guide: Program,
    batches: Batches,
    *,
    name: str = "data",
    num_particles: int = 1,
    max_plate_nesting: int = 1,
    enumerated: bool = False,
    objective: Objective | None = None,
    trained: bool = False,
    resumed: bool = False,
    whole_batch: bool = False,
) -> None:
    """Run the pair once on two of the data, and hold all data against the supports of the observed sites.

    Two, since a dimension that belongs to one datum can then hardly pass for that of the data; with ``whole_batch``,
    the first batch, for programs that take no other size. Data that lie on the device are gone through here. Those of a
    loader are checked batch by batch as they are read for the first time; of a run that is ``resumed``, the first batch
    too, which asking for it might use up.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair; with an ``objective``, if it cannot train them; with ``trained``, if a
        parameter belongs to no module.
    ValueError
        If a value of the data is not finite or lies outside the support of an observed site; the message names both.
    """
    options = {"max_plate_nesting": max_plate_nesting, "enumerated": enumerated}
    check = _Check(model, guide, name, num_particles, objective, trained, whole_batch, options)
    if batches.resident:
        start = 0
        with seeded(0, placement(model, guide)[0]):  # binarised pixels and latents are drawn
            for x in batches.in_order():
                check(x, start)
                start += len(x)
        _check_number(start, name)
        check.objective_once()
        return
    if not resumed:
        first = batches.first()
        _check_number(0 if first is None else len(first), name)
        assert first is not None
        check(first, 0)
        check.objective_once()
    batches.check_first_pass(check)


def _check_number(num_data: int, name: str) -> None:
    if num_data == 0:
        raise ValueError(f"{name}: found no data, expected one datum or more")


class _Check:
    """The check of one set of data, batch by batch."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        name: str,
        num_particles: int,
        objective: Objective | None,
        trained: bool,
        whole_batch: bool,
        options: dict[str, Any],
    ) -> None:
        self.model, self.guide, self.name, self.num_particles = model, guide, name, num_particles
        self.objective, self.trained, self.options = objective, trained, options
        self.whole_batch = whole_batch
        self.first: Tensor | None = None
        self.whole: list[Site] = []  # sites that observe the data as they are, whatever these are
        self.others: list[str] = []  # sites that have to be run on them

    @torch.no_grad()
    def __call__(self, x: Tensor, start: int) -> None:
        _check_finite(x, start, self.name)
        with seeded(0, x.device):
            if self.first is None:
                self._begin(x if self.whole_batch else x[:2])
            for site in self.whole:
                data, seen = unpack(self.model, x)
                check_values(site["fn"], data, seen, start, 0, self.name, f"site {site['name']!r}")
            if self.others:
                pair = self._trace(x)
                for site in map(pair.model_sites.__getitem__, self.others):
                    check_site(pair, site, start, self.name)

    def _begin(self, x: Tensor) -> None:
        """Run the pair for the first time."""
        _check_data_shape(self.model, x, self.name)
        pair = self._trace(x)
        if self.trained:
            _check_params(pair)
        if self.num_particles > 1:  # not as many as data, so that the one cannot pass for the other
            self._trace(x, num_particles=3)
        data, _ = unpack(self.model, x)
        for site in map(pair.model_sites.__getitem__, pair.observed):
            packed = isinstance(bare(self.model), ObservedOnly)  # its masks are those of the data
            if _is_data(site, data) and is_constant(site["fn"]) and (packed or not is_masked(site)):
                self.whole.append(site)
            elif not covers_all(site["fn"]):
                self.others.append(site["name"])
        self.first = x

    @torch.no_grad()
    def objective_once(self) -> None:
        if self.objective is not None and self.first is not None:
            with seeded(0, self.first.device):
                _check_objective(self.model, self.guide, self.objective, self.first, self.name)

    def _trace(self, x: Tensor, **options: Any) -> PairTrace:
        call = functools.partial(trace_pair, isolated(self.model), isolated(self.guide), x, **self.options, **options)
        return _run(call, self.model, self.guide, x, self.name)


def _check_data_shape(model: Program, x: Tensor, name: str) -> None:
    """Compare data with the shape that a packaged model's likelihood is made for."""
    program = bare(model)
    if isinstance(program, ObservedOnly):
        if x.dim() < 2 or x.shape[1] != 2:  # not packed, as it will say itself
            return
        program, x = program.program, x[:, 0]
    if hasattr(program, "data_shape") or not hasattr(program, "recipe"):  # labelled and packed; somebody's own
        return
    expected = getattr(getattr(program, "likelihood", None), "data_shape", None)
    if expected is not None and tuple(x.shape[1:]) != tuple(expected):
        found, wanted = (", ".join(map(str, ("N", *shape))) for shape in (x.shape[1:], expected))
        raise ValueError(f"{name}: found data of shape ({found}), expected ({wanted}) as the likelihood has them")


@torch.no_grad()
def check_last_batch(model: nn.Module, guide: nn.Module, batches: Batches) -> None:
    """Run the pair in train mode on one datum, if an epoch ends with a batch of one.

    Raises
    ------
    ValueError
        If a layer fails on it: batch normalisation has no variance of one datum.
    """
    modules = chain(model.modules(), guide.modules())
    if batches.last_size != 1 or not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
        return
    x = batches.first()
    assert x is not None
    with seeded(0, x.device), evaluating(model, guide):
        model.train(), guide.train()
        try:
            trace_pair(with_copied_buffers(isolated(model)), with_copied_buffers(isolated(guide)), x[:1])
        except ValueError as error:
            raise ValueError(
                f"batch_size: found one that leaves a last batch of one of {batches.num_data} data, on which the "
                f"programs fail in train mode ({error}); expected another size, or a DataLoader with drop_last=True"
            ) from error


def _check_objective(model: Program, guide: Program, objective: Objective, x: Tensor, name: str) -> None:
    if objective.gradient != "reparam":
        check_runs_again(guide)
        _check_second_run(guide, x)
    with torch.enable_grad():
        _run(lambda: objective.estimate(isolated(model), isolated(guide), x), model, guide, x, name)


def _check_second_run(guide: Program, x: Tensor) -> None:
    """The guide, run twice on its own latents in the mode that it is in, must give them the same density twice."""
    latents = poutine.trace(with_copied_buffers(isolated(guide))).get_trace(x)
    first, second = (scored_with_constants(guide, latents, x) for _ in range(2))
    for name, site in random_sites(first).items():
        if not torch.equal(site["unscaled_log_prob"], second.nodes[name]["unscaled_log_prob"]):
            raise ProgramError(
                f"site {name!r}: found another density of the same latents when the guide ran again, expected a guide "
                "without dropout or other noise of its own, or gradient='reparam'"
            )


def _check_params(pair: PairTrace) -> None:
    for trace in (pair.guide_trace, pair.model_trace):
        params: dict[str, Any] = {name: trace.nodes[name]["value"] for name in trace.param_nodes}
        for name, value in params.items():
            owned = value.unconstrained() if hasattr(value, "unconstrained") else value
            if not isinstance(owned, nn.Parameter):
                raise ProgramError(
                    f"parameter {name!r}: found in a bare pyro.param, which only SVI trains, expected an nn.Parameter "
                    "or a PyroParam that is an attribute of the program"
                )


def _run(call: Callable[[], Any], model: Program, guide: Program, x: Tensor, name: str) -> Any:
    try:
        with evaluating(model, guide):
            return call()
    except ProgramError as error:
        shape = ", ".join(map(str, ("N", *x.shape[1:])))
        raise ProgramError(f"{error} ({name} of shape ({shape}))") from error
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        reason = str(error).partition("Trace Shapes:")[0].strip()  # Pyro appends a table of all sites
        shape = ", ".join(map(str, ("N", *x.shape[1:])))
        raise ValueError(f"{name}: found data of shape ({shape}), on which the programs fail: {reason}") from error


def _is_data(site: dict[str, Any], x: Tensor) -> bool:
    """Whether a site observes the data, reshaped at most: of what a program makes of them, the values are its own."""
    value = site["value"]
    return value.numel() == x.numel() and torch.equal(value.reshape(x.shape).to(x.dtype), x)


def _check_finite(x: Tensor, start: int, name: str) -> None:
    bad = ~torch.isfinite(x)
    if bad.any():
        where, found = _first(bad, x, start)
        raise ValueError(f"{name}: found the value {found:g} at {where}, expected finite numbers")


def _first(bad: Tensor, x: Tensor, start: int) -> tuple[tuple[int, ...], float]:
    """Where in the data the first ``bad`` entry of a batch is that begins at ``start``, and what is there."""
    row, *rest = bad.nonzero()[0].tolist()
    return (start + row, *rest), x[(row, *rest)].item()
