"""Training: one call that turns a pair of programs and data into a trained pair and its history.

Everything that can be refused is refused here, before the first step; :mod:`pyro_vae.training.loop` then does the
work. What it would take to go on from any step (weights, optimiser, generators, position in the epoch) is one flat set
of tensors and one JSON document, see :mod:`pyro_vae.training.run_state`; so a run that is interrupted resumes to the
same weights, bit by bit, as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn
from torch.utils.data import DataLoader

from pyro_vae.compilation.compiled import Compile, said
from pyro_vae.data.batches import Batches, as_batches
from pyro_vae.data.loading import Splits
from pyro_vae.inference.annealing import Annealed
from pyro_vae.inference.checks import check_last_batch, check_program
from pyro_vae.nn.recipes import placement
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.objectives.objective import AnyObjective
from pyro_vae.runtime.arguments import AnyData, Device, PathLike, PositiveInteger, PositiveNumber, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.precision import Precision, precise
from pyro_vae.runtime.state import evaluating, interruptible, seeded
from pyro_vae.schedules import Schedule
from pyro_vae.training.checkpoint import as_module
from pyro_vae.training.cuda_graph import ReplayedUpdate, make_update
from pyro_vae.training.history import History, Record
from pyro_vae.training.loop import Loop
from pyro_vae.training.optimizers import make_optimizer, make_scheduler, rate_at_start
from pyro_vae.training.run_state import RunState
from pyro_vae.training.step import make_steps
from pyro_vae.training.updates import Update

__all__ = ["History", "fit", "tensorboard"]

_LONG = 10_000  # steps that are worth compiling for: some seconds, of some milliseconds saved by each


@checked
@exclusive("fit")
def fit(
    model: nn.Module,
    guide: nn.Module,
    data: AnyData,
    *,
    objective: AnyObjective | None = None,
    num_epochs: PositiveInteger = 20,
    batch_size: PositiveInteger = 100,
    lr: PositiveNumber | Callable[[float], float] = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    clip_norm: PositiveNumber | None = None,
    valid: AnyData = None,
    patience: PositiveInteger | None = None,
    device: Device | None = None,
    precision: Precision = "highest",
    compile: Compile = "auto",
    seed: Seed | None = None,
    checkpoint: PathLike | None = None,
    checkpoint_seconds: PositiveNumber = 600.0,
    resume: bool = False,
    callbacks: Sequence[Callable[[Record], None]] = (),
    progress: bool = True,
) -> History:
    """Train a model and a guide together.

    Parameters
    ----------
    model, guide
        The programs, as modules; they are trained in place. Of a pair from :func:`pyro_vae.anneal_kl`, the history and
        the progress bar show the true bound, and the checkpoint is that of the programs alone.
    data
        What :func:`pyro_vae.data.load` returns (its ``valid`` then validates), one split of it, a tensor or array
        ``(N, *data_shape)``, a ``Dataset`` or a ``DataLoader``. All but the last two stay on the device as they are.
    objective
        One of this package's objectives or any Pyro ELBO; :class:`pyro_vae.ELBO` by default.
    num_epochs, batch_size
        Passes over the data, and data a step; the last batch of an epoch holds the rest.
    lr
        The learning rate, or a function from the fraction of training done, in [0, 1), to it.
    optimizer
        Called as ``optimizer(parameters, lr=lr)``; fused Adam by default.
    scheduler
        Called as ``scheduler(optimizer)``; the torch scheduler it returns steps once an epoch (``ReduceLROnPlateau`` on
        the validation loss). Not together with a function as ``lr``.
    clip_norm
        Largest global norm of the gradient of the mean loss per datum.
    valid
        Validation data, for data that bring none.
    patience
        Stop when the validation loss has not fallen for so many epochs.
    device
        Where to train; the programs are moved there. By default, where they are.
    precision
        Of products of float32 matrices, see :func:`pyro_vae.runtime.precision.precise`; restored afterwards.
    compile
        Whether to compile the step for whole batches, with one of this package's objectives: the same gradients, on the
        same draws, but for rounding; see :mod:`pyro_vae.compilation`. ``"auto"`` does where training is to take 10,000
        steps or more, since compiling takes some seconds, in deep models minutes; the next time a part of that, for
        torch keeps what it compiled on disk. On CUDA the whole update, of data that lie there, is then replayed as
        one CUDA graph, see :mod:`pyro_vae.training.cuda_graph`. Programs that cannot be compiled run as they are, and a
        warning says why.
    seed
        Seeds the run, and leaves the caller's generators as they were. ``None`` draws on from them.
    checkpoint
        A folder for ``checkpoint.safetensors`` (the weights with the best validation loss, or the last; see
        :func:`pyro_vae.load`), ``last.safetensors`` (all it takes to go on) and ``metrics.jsonl``.
    checkpoint_seconds
        ``last.safetensors`` is written at the end of each epoch, and within one whenever so many seconds have passed.
    resume
        Go on with the run in ``checkpoint``; ``num_epochs`` counts from its beginning. ``lr`` may be another.
    callbacks
        Called with each epoch's record.
    progress
        Show a progress bar with the bound and the data a second.

    Returns
    -------
    History
        After Ctrl-C or SIGTERM too: the step under way is finished, the checkpoint written, ``interrupted`` set. The
        programs hold the last weights.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError, TypeError
        For data or arguments that cannot be trained on, before training starts; such as a schedule that would not have
        arrived when training ends. Data of a loader are checked as they are read for the first time, and a rate that a
        function gives at each step: the programs then get back the weights that they had when the epoch began.
    FileExistsError, FileNotFoundError
        If ``checkpoint`` holds another run and ``resume`` is false, or none and it is true.
    ConcurrentRunError
        If another thread of the process is running programs.
    FloatingPointError
        If the bound or a parameter stops being finite. The message names the step and the site, the programs get back
        the weights of the last good epoch, and the checkpoint on disk stays.

    Examples
    --------
    >>> import pyro_vae
    >>> vae = pyro_vae.VAE(data_shape=(8, 8), latent_dim=2, hidden_dims=(16,))
    >>> history = fit(vae.model, vae.guide, pyro_vae.data.load("digits"), num_epochs=2, seed=0, progress=False)
    >>> history.records[1]["valid_bound"] > history.records[0]["valid_bound"]
    True
    """
    objective = ELBO() if objective is None else objective
    pair = _check_arguments(model, guide)
    initial_lr = rate_at_start(lr)
    schedules = _schedules(model, guide, objective)
    if device is not None:
        pair.to(device)
    where, dtype = placement(pair)
    for schedule in schedules:
        schedule.to(where)
    train = data.train if isinstance(data, Splits) else data
    valid = data.valid if isinstance(data, Splits) and valid is None else valid
    size_of_batch = train.batch_size if isinstance(train, DataLoader) else batch_size
    if patience is not None and valid is None:
        raise ValueError(f"patience: found {patience} without validation data, expected valid=... beside it")
    options: dict[str, Any] = {"device": where, "dtype": dtype}
    batches = as_batches(train, batch_size, **options, shuffle=True)
    valid_batches = None if valid is None else as_batches(valid, batch_size, **options, shuffle=False, name="valid")
    if not isinstance(train, DataLoader) and batches.num_data is not None and batch_size > batches.num_data:
        raise ValueError(f"batch_size: found {batch_size}, expected at most the number of data, {batches.num_data}")
    ours = objective if isinstance(objective, Objective) else None
    particles, nesting = ours.total_particles if ours else 1, objective.max_plate_nesting
    for name, held in (("data", batches), ("valid", valid_batches)):
        if held is not None:
            with seeded(seed, where):  # a loader's first batch is asked for, in the order of the run
                check_program(
                    model, guide, held, name=name, num_particles=particles, max_plate_nesting=nesting,
                    enumerated=ours is None, objective=ours, trained=True, resumed=resume,
                )  # fmt: skip
    if not resume:
        check_last_batch(model, guide, batches)

    num_steps = _num_steps(batches, num_epochs)
    _check_warm_up(schedules, num_epochs, num_steps)
    compiled = compile is True or (compile == "auto" and ours is not None and (num_steps or 0) >= _LONG)

    if callable(lr) and scheduler is not None:
        raise ValueError("scheduler: found one beside a function as lr, expected one of the two to set the rate")
    parameters = [parameter for parameter in pair.parameters() if parameter.requires_grad]
    stepper = make_optimizer(optimizer, parameters, initial_lr)
    state = RunState(pair, stepper, make_scheduler(scheduler, stepper), where, batches)
    folder = None if checkpoint is None else Path(checkpoint)
    with (
        seeded(seed, where),
        pyro.validation_enabled(False),
        precise(precision, where),
        evaluating(model, guide),
        interruptible() as interrupted,
    ):
        if folder is not None:
            facts = {
                "batch_size": size_of_batch,
                "num_data": batches.num_data,
                "optimizer": type(stepper).__name__,
                "scheduler": type(state.scheduler).__name__,
                "objective": repr(objective)
                if ours
                else f"{type(objective).__name__}(num_particles={objective.num_particles})",
                "kl_weight": repr(model) if isinstance(model, Annealed) else None,
                "clip_norm": clip_norm,
            }
            rates = [group["lr"] for group in stepper.param_groups]
            state.open(folder, resume, facts)
            if scheduler is None and not callable(lr):  # a run may go on with another rate
                for group, rate in zip(stepper.param_groups, rates, strict=True):
                    group["lr"] = rate
        take, summed, reasons = make_steps(model, guide, pair, objective, size_of_batch, compiled, said(progress))
        update = make_update(Update(batches, take, stepper, clip_norm), pair, size_of_batch)

        def fallbacks() -> list[str]:
            replayed = update.reason if isinstance(update, ReplayedUpdate) else None
            return reasons() + ([f"the update is not recorded as a CUDA graph: {replayed}"] if replayed else [])

        loop = Loop(
            model=model, guide=guide, pair=pair, schedules=schedules, objective=objective, batches=batches, lr=lr,
            num_epochs=num_epochs, update=update, summed=summed, fallbacks=fallbacks, state=state, folder=folder,
            checkpoint_seconds=checkpoint_seconds, interrupted=interrupted, progress=progress,
        )  # fmt: skip
        return loop.all_epochs(valid_batches, patience, callbacks)


def _schedules(model: nn.Module, guide: nn.Module, objective: pyro.infer.ELBO) -> list[Schedule]:
    """Every schedule that training has to move on, once."""
    modules = (*model.modules(), *guide.modules(), getattr(objective, "capacity", None))
    return list(dict.fromkeys(module for module in modules if isinstance(module, Schedule)))


def _num_steps(batches: Batches, num_epochs: int) -> int | None:
    """How many steps training takes; ``None`` for a stream."""
    try:
        return num_epochs * len(batches)
    except TypeError:
        return None


def _check_warm_up(schedules: list[Schedule], num_epochs: int, num_steps: int | None) -> None:
    for schedule in schedules:
        if num_steps is not None and schedule.num_steps > num_steps:
            raise ValueError(
                f"num_steps: found {schedule}, longer than the training of {num_epochs} epochs of "
                f"{num_steps // num_epochs} steps, expected at most {num_steps}"
            )


def _check_arguments(model: nn.Module, guide: nn.Module) -> nn.Module:
    pair = as_module((model, guide))
    if not any(parameter.requires_grad for parameter in pair.parameters()):
        raise ValueError("model, guide: found no parameter to train, expected modules with parameters")
    if isinstance(model, Annealed) != isinstance(guide, Annealed):
        raise ValueError("model, guide: found one of the two annealed, expected both halves that anneal_kl returned")
    return pair


@checked
def tensorboard(folder: PathLike) -> Callable[[Record], None]:
    """Return a callback for :func:`fit` that logs every record to TensorBoard.

    Raises
    ------
    ModuleNotFoundError
        If the package ``tensorboard`` is not installed.
    """
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def log(record: Record) -> None:
        for name, value in record.items():
            if name != "epoch" and isinstance(value, (int, float)):
                writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    return log
