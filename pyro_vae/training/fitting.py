"""Training: one call that turns a pair of programs and data into a trained pair and its history.

Everything that can be refused is refused here, before the first step; :mod:`pyro_vae.training.loop` then does the
work. What it would take to go on from any step (weights, optimiser, generators, position in the epoch) is one flat set
of tensors and one JSON document, see :mod:`pyro_vae.training.run_state`; so a run that is interrupted resumes to the
same weights, bit by bit, as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_vae.compilation.compiled import Compile
from pyro_vae.compilation.on_disk import is_on_disk, mark_for, remember
from pyro_vae.data.conversion import training_batches
from pyro_vae.data.same_calls import refuse_other_calls
from pyro_vae.inference.callables import as_modules
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.isolation import refusing_others
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.objectives.objective import AnyObjective
from pyro_vae.runtime.arguments import AnyData, Device, PathLike, PositiveInteger, PositiveNumber, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.precision import Precision, precise
from pyro_vae.runtime.ranks import ranks
from pyro_vae.runtime.state import evaluating, interruptible, seeded
from pyro_vae.training.batch_norms import statistics_of, without_batch_statistics
from pyro_vae.training.callbacks import telling
from pyro_vae.training.checks import (
    check_pictures,
    check_programs,
    check_schedules,
    check_validation,
    folder_of,
    schedules_of,
)
from pyro_vae.training.compiled_update import make_update
from pyro_vae.training.described import facts_of, run_of
from pyro_vae.training.history import History, Record
from pyro_vae.training.loop import Loop
from pyro_vae.training.modules import as_module
from pyro_vae.training.optimizers import make_optimizer, make_scheduler, rate_at_start
from pyro_vae.training.progress import reporter
from pyro_vae.training.run_schedule import run_schedule
from pyro_vae.training.run_state import RunState
from pyro_vae.training.shared_state import make_state
from pyro_vae.training.step import make_steps
from pyro_vae.training.trained import Trained, find_trained, placed

__all__ = ["fit"]

_LONG = 10_000  # steps: compiling costs seconds and saves some milliseconds a step
_LONG_IF_KNOWN = 2_000  # if kernels are on disk, where it costs less


@checked
@exclusive("fit", shared=True)
def fit(
    model: StochasticFunction,
    guide: StochasticFunction,
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
        The programs, as SVI takes them: modules, methods, functions, AutoGuides. Modules are trained whole, of other
        programs what they register by ``pyro.module`` and ``pyro.param``; all of it in place. What a bare
        ``pyro.param`` declares begins with its value in Pyro's parameter store, if there is one, and is left there. Of
        a pair from :func:`pyro_vae.anneal_kl`, the history and the progress bar show the true bound, and the checkpoint
        is that of the programs alone.
    data
        What :func:`pyro_vae.data.load` returns (its ``valid`` then validates), one split of it, a tensor or array
        ``(N, *data_shape)``, a tuple or dictionary of these, data on disk (:class:`pyro_vae.data.Stored`), sparse rows,
        a ``Dataset`` or a ``DataLoader``. Arrays stay on the device as they are. Batches of several entries are passed
        on as Pyro does, ``model(*batch)`` or ``model(**batch)``; programs of one argument get the first entry, and a
        warning says what is left out.
    objective
        One of this package's objectives or any Pyro ELBO; :class:`pyro_vae.ELBO` by default.
    num_epochs, batch_size
        Passes over the data, and data a step; the last batch of an epoch holds the rest.
    lr
        The learning rate, or a function from the fraction of training done, in [0, 1), to it.

    Other Parameters
    ----------------
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
        steps or more, since compiling takes some seconds, in deep models minutes. Torch keeps what it compiled on
        disk, so that the next time takes a part of that, and 2,000 steps suffice; a run that is resumed goes on as it
        began. With torch's Adam the whole update is compiled, on CUDA many of them on resident data as one CUDA graph,
        and leaves no gradients in ``.grad``, see :mod:`pyro_vae.training.compiled_update`; with another optimiser the
        gradients are. Programs that cannot be compiled run as they are, and a warning says why.
    seed
        Seeds the run, and leaves the caller's generators as they were. ``None`` draws on from them.
    checkpoint
        A folder for ``checkpoint.safetensors`` (the weights with the best validation loss, or the last; see
        :func:`pyro_vae.load`), ``last.safetensors`` (all it takes to go on) and ``metrics.jsonl``.
    checkpoint_seconds
        ``last.safetensors`` is written at the end of each epoch, and within one whenever so many seconds have passed.
    resume
        Go on with the run in ``checkpoint``; ``num_epochs`` counts from its beginning. ``lr`` may be another, unless
        there is a scheduler. Another packaged program is refused, and other data are warned of.
    callbacks
        Called with each epoch's record. A :class:`~pyro_vae.training.callbacks.Callback` is also told of the start and
        the end; :mod:`pyro_vae.training.services` has those for TensorBoard, Weights & Biases, MLflow and trackio.
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
    FileExistsError
        If ``checkpoint`` holds another run and ``resume`` is false.
    FileNotFoundError
        If ``checkpoint`` holds no run and ``resume`` is true.
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
    objective, group = ELBO() if objective is None else objective, ranks()
    (model, guide), initial_lr = as_modules(model, guide), rate_at_start(lr, scheduler)
    device, dtype = placed(as_module((model, guide)), data, device)
    schedules = schedules_of(model, guide, objective, device)
    check_pictures(model, data, valid)
    batches, valid_batches = training_batches(data, valid, batch_size, device, dtype, (model, guide), group)
    check_validation(patience, valid_batches)
    check = partial(check_programs, model, guide, objective, {"data": batches, "valid": valid_batches}, seed, resume)
    trained = find_trained(model, guide, objective, batches, valid_batches, seed, resume, check)
    num_steps = check_schedules(schedules, batches, num_epochs)
    batches, module, made = trained.batches, trained.module, make_optimizer(optimizer, trained.parameters, initial_lr)
    state = make_state(group, module, made, make_scheduler(scheduler, made), device, batches)
    folder, facts = folder_of(checkpoint, resume), facts_of(model, objective, state, trained, valid_batches, clip_norm)
    refuse_other_calls(group, facts, (batches, valid_batches), num_epochs=num_epochs, patience=patience, lr=initial_lr)
    with (
        seeded(seed, device), pyro.validation_enabled(False), precise(precision, device), evaluating(model, guide),
        refusing_others(module.parameters()), statistics_of(group, module), interruptible() as interrupted,
    ):  # fmt: skip
        state.open(folder, resume, facts, keep_rates=scheduler is None and not callable(lr))
        size, report = batches.share_size, reporter(progress and group.is_first, batches, valid_batches)
        mark = partial(mark_for, module, (objective, size, clip_norm, type(made), precision, batches.parts))
        state.compiled = _is_compiled(compile, state, trained, objective, num_steps or 0, mark)
        steps = make_steps(model, guide, module, objective, size, state.compiled, report, trained.around)
        loop = Loop(
            model=model, guide=guide, module=module, trained=trained.parameters, schedules=schedules,
            schedule=run_schedule(state, batches, num_epochs, schedules, lr), objective=objective, batches=batches,
            update=make_update(state, batches, steps.gradient_step, clip_norm, schedules, report),
            summed=steps.summed, reasons=steps.reasons, state=state, folder=folder, num_epochs=num_epochs,
            interrupted=interrupted, checkpoint_seconds=checkpoint_seconds, progress=progress and group.is_first,
        )  # fmt: skip
        with telling(callbacks, partial(run_of, loop, facts, resume, lr, patience, precision, seed), loop.history):
            history = loop.all_epochs(valid_batches, patience, callbacks)
        if state.compiled and history.records and not loop.fallbacks():
            remember(mark())
        return history


def _is_compiled(
    compile: Compile, state: RunState, trained: Trained, objective: Any, num_steps: int, mark: Callable[[], Path]
) -> bool:  # fmt: skip
    """Return whether to compile; by "auto" what can be, where it pays, and a run that goes on as it began."""
    if not without_batch_statistics(trained.batches.ranks, trained.module, objective, compile is True):
        return False
    if compile != "auto":
        return compile
    if state.compiled is not None:
        return state.compiled
    is_long = num_steps >= _LONG or (num_steps >= _LONG_IF_KNOWN and is_on_disk(mark()))
    return isinstance(objective, Objective) and is_long
