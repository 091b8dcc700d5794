"""What :func:`pyro_vae.fit` refuses before the first step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.data.batch import Batch, call
from pyro_vae.data.batches import Batches
from pyro_vae.data.channels import check_channels
from pyro_vae.errors import ProgramError, pyro_error_reason
from pyro_vae.inference.callables import innermost
from pyro_vae.inference.checks import check_program, run_to_check
from pyro_vae.inference.frozen import check_runs_again, with_copied_buffers
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.running import scored_with_constants
from pyro_vae.inference.sites import random_sites
from pyro_vae.objectives import Objective
from pyro_vae.runtime.state import evaluating, seeded
from pyro_vae.schedules import Schedule

__all__ = ["check_pictures", "check_programs", "check_schedules", "check_validation", "folder_of", "schedules_of"]


def check_pictures(model: nn.Module, data: Any, valid: Any) -> None:
    """Refuse arrays of pictures that seem to have their channels last, for a model of this package.

    Raises
    ------
    ValueError
        With what to do. A model of one's own takes what it was written for.
    """
    if not hasattr(innermost(model), "recipe"):
        return
    for name, given in (("data", data), ("valid", valid)):
        entries = given if isinstance(given, tuple) else given.values() if isinstance(given, dict) else [given]
        for each in entries:
            if isinstance(each, (Tensor, np.ndarray)):
                others = "or pyro_vae.data.load(x, channels='last'); its channels='first' takes them as they are"
                check_channels(each, others, name)


def check_validation(patience: int | None, valid: Batches | None) -> None:
    """Raise ``ValueError`` for patience without validation data."""
    if patience is not None and valid is None:
        raise ValueError(f"patience: found {patience} without validation data, expected valid=... beside it")


def schedules_of(
    model: nn.Module, guide: nn.Module, objective: pyro.infer.ELBO, device: torch.device
) -> list[Schedule]:
    """Return every schedule that training has to move on, once, on the device of the programs."""
    modules = (*model.modules(), *guide.modules(), getattr(objective, "capacity", None))
    return [module.to(device) for module in dict.fromkeys(modules) if isinstance(module, Schedule)]


def check_schedules(schedules: list[Schedule], batches: Batches, num_epochs: int) -> int | None:
    """Return the number of steps that training takes; ``None`` for data without a length.

    Raises
    ------
    ValueError
        For a schedule that would not have arrived when training ends.
    """
    try:
        num_steps = num_epochs * len(batches)
    except TypeError:
        return None
    for schedule in schedules:
        if schedule.num_steps > num_steps:
            raise ValueError(
                f"num_steps: found {schedule}, longer than the training of {num_epochs} epochs of "
                f"{num_steps // num_epochs} steps, expected at most {num_steps}"
            )
    return num_steps


def folder_of(checkpoint: str | os.PathLike[str] | None, resume: bool) -> Path | None:
    """Return the folder of a run. Raise ``ValueError`` for a run that is to go on and has none."""
    if checkpoint is None and resume:
        raise ValueError("resume: found True without a checkpoint, expected checkpoint=... to name the run's folder")
    return None if checkpoint is None else Path(checkpoint)


def check_programs(
    model: nn.Module,
    guide: nn.Module,
    objective: Any,
    data: Mapping[str, Batches | None],
    seed: int | None,
    resumed: bool,
) -> None:
    """Run the pair and its objective once on each set of data, and hold all data against the supports of the sites.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair, or if the objective cannot train them.
    ValueError
        For data that the programs cannot take, or that lie outside the support of an observed site; for a batch size
        that leaves a last batch on which the programs fail.
    """
    own = objective if isinstance(objective, Objective) else None
    programs = ProgramPair(model, guide) if own is None else own.pair_of(model, guide)
    run = programs if own is None else own.programs_to_check(programs)
    for name, batches in data.items():
        if batches is None:
            continue
        with seeded(seed, batches.device):  # a loader's first batch is asked for, in the order of the run
            if not resumed:
                _check_last_batch(run, (model, guide), batches, enumerated=own is None, in_training=name == "data")
            x = check_program(
                run,
                batches,
                name=name,
                num_particles=1 if own is None else own.total_particles,
                enumerated=own is None,
                resumed=resumed,
                each_datum=False,
                shares_globals=own is not None and not own.is_linear,
            )
            if own is not None and x is not None:
                with seeded(0, x.device):
                    _check_objective(programs, own, x, name)


@torch.no_grad()
def _check_last_batch(
    programs: ProgramPair, halves: Sequence[nn.Module], batches: Batches, enumerated: bool, in_training: bool
) -> None:
    """Run the pair on as many data as an epoch ends with, if that is another number than the batch size.

    It is run in the mode in which it will be run on them.

    Raises
    ------
    ValueError
        If it fails on them, but not on a whole batch: batch normalisation has no variance of one datum, a plate may
        have a fixed size.
    """
    size, x = batches.last_size, batches.first()
    if batches.ranks.size > 1 and size is not None and x is not None:  # whose share of it may have fewer
        size = min(size, len(x))
    if size is None or x is None or len(x) < size or len(x) == size > 1:
        return
    model, guide = (with_copied_buffers(isolated(half)) for half in (programs.model, programs.guide))
    copied = replace(programs, model=model, guide=guide)
    with seeded(0, x.device), evaluating(*halves):
        for half in halves:
            half.train(in_training)
        try:
            _score(copied, x[:size], enumerated)
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            if len(x) > size and not _runs_on(copied, x, enumerated):  # which the check that follows explains
                return
            expected = "a larger one" if size == len(x) else f"a divisor of {batches.num_data}"
            raise ValueError(
                f"batch_size: found one that leaves a last batch of {size} of {batches.num_data} data, on which the "
                f"programs fail ({pyro_error_reason(error)}); expected {expected}, or a DataLoader with drop_last=True"
            ) from error


def _runs_on(programs: ProgramPair, x: Batch, enumerated: bool) -> bool:
    try:
        _score(programs, x, enumerated)
    except (ValueError, RuntimeError, TypeError, IndexError):
        return False
    return True


def _score(programs: ProgramPair, x: Batch, enumerated: bool) -> None:
    """Run a pair and all of its densities; the data plate has to be of all data, which others broadcast to it."""
    pair = trace_pair(programs, x, enumerated=enumerated, each_datum=False)
    for trace in (pair.guide_trace, pair.model_trace):
        trace.compute_log_prob()
    if pair.num_data != len(x):
        raise ProgramError(f"found a data plate of size {pair.num_data}, expected one of size len(x) = {len(x)}")


@torch.no_grad()
def _check_objective(programs: ProgramPair, objective: Objective, x: Batch, name: str) -> None:
    if objective.gradient != "reparam":
        check_runs_again(programs.guide)
        _check_second_run(programs.guide, x)
    isolated = programs.isolated()
    with torch.enable_grad():
        run_to_check(lambda: objective.estimate(isolated.model, isolated.guide, x), programs, x, name)


def _check_second_run(guide: StochasticFunction, x: Batch) -> None:
    """The guide, run twice on its own latents in the mode that it is in, must give them the same density twice."""
    latents = call(poutine.trace(with_copied_buffers(isolated(guide))).get_trace, x)
    first, second = (scored_with_constants(guide, latents, x) for _ in range(2))
    for name, site in random_sites(first).items():
        if not torch.equal(site["unscaled_log_prob"], second.nodes[name]["unscaled_log_prob"]):
            raise ProgramError(
                f"site {name!r}: found another density of the same latents when the guide ran again, expected a guide "
                "without dropout or other noise of its own, or gradient='reparam'"
            )
