"""What :func:`pyro_vae.fit` refuses before the first step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import nn

from pyro_vae.data.batch import Batch, call
from pyro_vae.data.batches import Batches
from pyro_vae.errors import ProgramError
from pyro_vae.inference.annealing import Annealed
from pyro_vae.inference.checks import check_program, run_to_check
from pyro_vae.inference.frozen import check_runs_again, with_copied_buffers
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.running import scored_with_constants
from pyro_vae.inference.sites import random_sites
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives import Objective
from pyro_vae.runtime.state import evaluating, seeded
from pyro_vae.schedules import Schedule
from pyro_vae.training.checkpoint import as_module

__all__ = ["check_modules", "check_programs", "check_schedules", "folder_of", "schedules_of"]


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


def check_modules(model: nn.Module, guide: nn.Module) -> nn.Module:
    """Return the pair as one module. Raise ``ValueError`` if nothing in it can be trained, or one half is annealed."""
    module = as_module((model, guide))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError("model, guide: found no parameter to train, expected modules with parameters")
    if isinstance(model, Annealed) != isinstance(guide, Annealed):
        raise ValueError("model, guide: found one of the two annealed, expected both halves that anneal_kl returned")
    return module


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
        If the two programs do not form a pair, if the objective cannot train them, or if a parameter belongs to no
        module.
    ValueError
        For data that the programs cannot take, or that lie outside the support of an observed site.
    """
    own = objective if isinstance(objective, Objective) else None
    programs = ProgramPair(model, guide) if own is None else own.pair_of(model, guide)
    run = programs if own is None else own.programs_to_check(programs)
    for name, batches in data.items():
        if batches is None:
            continue
        with seeded(seed, batches.device):  # a loader's first batch is asked for, in the order of the run
            x = check_program(
                run,
                batches,
                name=name,
                num_particles=1 if own is None else own.total_particles,
                enumerated=own is None,
                resumed=resumed,
                each_datum=False,
                shares_globals=own is not None and not own.is_linear,
                check_pair=_check_params,
            )
            if own is not None and x is not None:
                with seeded(0, x.device):
                    _check_objective(programs, own, x, name)
    if not resumed and data["data"] is not None:
        _check_last_batch(run, data["data"])


@torch.no_grad()
def _check_last_batch(programs: ProgramPair, batches: Batches) -> None:
    """Run the pair in train mode on one datum, if an epoch ends with a batch of one.

    Raises
    ------
    ValueError
        If a layer fails on it: batch normalisation has no variance of one datum.
    """
    model, guide = programs.model, programs.guide
    assert isinstance(model, nn.Module) and isinstance(guide, nn.Module)
    modules = chain(model.modules(), guide.modules())
    if batches.last_size != 1 or not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
        return
    x = batches.first()
    assert x is not None
    with seeded(0, x.device), evaluating(model, guide):
        model.train(), guide.train()
        try:
            programs = ProgramPair(with_copied_buffers(isolated(model)), with_copied_buffers(isolated(guide)))
            trace_pair(programs, x[:1])
        except ValueError as error:
            raise ValueError(
                f"batch_size: found one that leaves a last batch of one of {batches.num_data} data, on which the "
                f"programs fail in train mode ({error}); expected another size, or a DataLoader with drop_last=True"
            ) from error


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


def _check_params(pair: PairTrace) -> None:
    for trace in (pair.guide_trace, pair.model_trace):
        params: dict[str, Any] = {name: trace.nodes[name]["value"] for name in trace.param_nodes}
        for name, value in params.items():
            owned = value.unconstrained() if hasattr(value, "unconstrained") else value
            if not isinstance(owned, nn.Parameter):
                if any(isinstance(own, nn.Parameter) for own in trace.nodes[name]["args"]):
                    raise ProgramError(
                        f"parameter {name!r}: found another value in Pyro's parameter store than in the program, "
                        "expected pyro.clear_param_store() before"
                    )
                raise ProgramError(
                    f"parameter {name!r}: found in a bare pyro.param, which only SVI trains, expected an nn.Parameter "
                    "or a PyroParam that is an attribute of the program"
                )
