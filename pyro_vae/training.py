"""Training: one call that turns a pair of programs and data into a trained pair and its history.

::

    for each epoch
        for each batch x
            loss = - sum_b bound(x_b)        the objective's, or any Pyro ELBO's
            step the optimiser down the gradient of loss / len(x)
        validate, record, write the checkpoint

The loop keeps its sums on the device and reads them a few times a second, so a GPU never waits for Python. What it
would take to go on from any step (weights, optimiser, generators, position in the epoch) is one flat set of tensors
and one JSON document, see :mod:`pyro_vae.run_state`; so a run that is interrupted resumes to the same weights, bit by
bit, as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pyro_vae.batches import Batches, as_batches
from pyro_vae.checkpoint import as_module, save
from pyro_vae.checks import check_program, first_bad_site
from pyro_vae.data import Splits
from pyro_vae.evaluation import mean_bound
from pyro_vae.files import write_text
from pyro_vae.modules import placement
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.run_state import RunState
from pyro_vae.state import evaluating, isolated, matmul_precision, seeded

__all__ = ["History", "fit", "tensorboard"]

Record = dict[str, Any]
_SECONDS_BETWEEN_READS = 0.5


@dataclass
class History:
    """What a run did: one record an epoch, and how it ended.

    A record holds ``epoch``, ``step``, ``train_bound`` (the mean over the epoch, while the weights changed) and
    ``valid_bound`` (``None`` without validation data), both in nats per datum, ``learning_rate`` and ``seconds``.
    """

    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    stopped_early: bool = False

    @property
    def best(self) -> Record:
        """The record with the largest validation bound, or the last one without validation."""
        scored = [record for record in self.records if record["valid_bound"] is not None]
        return max(scored, key=lambda record: record["valid_bound"]) if scored else self.records[-1]


class _Diverged(Exception):
    """The bound or a parameter is no longer finite; caught by ``fit``, which then looks for the step."""


def fit(
    model: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    objective: pyro.infer.ELBO | None = None,
    num_epochs: int = 20,
    batch_size: int = 100,
    lr: float | Callable[[float], float] = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    clip_norm: float | None = None,
    valid: Any = None,
    patience: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "highest",
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callable[[Record], None]] = (),
    progress: bool = True,
) -> History:
    """Train a model and a guide together.

    Parameters
    ----------
    model, guide
        The programs, as modules; they are trained in place.
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
        Called as ``scheduler(optimizer)``; the torch scheduler it returns steps once an epoch.
    clip_norm
        Largest global norm of the gradient of the mean loss per datum.
    valid
        Validation data, for data that bring none.
    patience
        Stop when the validation bound has not risen for so many epochs.
    device
        Where to train; the programs are moved there. By default, where they are.
    precision
        Of float32 matrix products, ``"highest"``, ``"high"`` or ``"medium"``; restored afterwards.
    seed
        Seeds the run, and leaves the caller's generators as they were. ``None`` draws on from them.
    checkpoint
        A folder for ``checkpoint.safetensors`` (the weights with the best validation bound, or the last; see
        :func:`pyro_vae.load`), ``last.safetensors`` (all it takes to go on) and ``metrics.jsonl``.
    resume
        Go on with the run in ``checkpoint``; ``num_epochs`` counts from its beginning.
    callbacks
        Called with each epoch's record.
    progress
        Show a progress bar with the bound and the data a second.

    Returns
    -------
    History
        After Ctrl-C too: the step under way is finished, the checkpoint written, ``interrupted`` set. The programs
        hold the last weights.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError, TypeError
        For data or arguments that cannot be trained on, before training starts.
    FileExistsError, FileNotFoundError
        If ``checkpoint`` holds another run and ``resume`` is false, or none and it is true.
    FloatingPointError
        If the bound or a parameter stops being finite. The message names the step and the site, the programs get back
        the weights of the last good epoch, and the checkpoint on disk stays.

    >>> import pyro_vae
    >>> vae = pyro_vae.VAE(data_shape=(8, 8), latent_dim=2, hidden_dims=(16,))
    >>> history = fit(vae.model, vae.guide, pyro_vae.data.load("digits"), num_epochs=2, seed=0, progress=False)
    >>> history.records[1]["valid_bound"] > history.records[0]["valid_bound"]
    True
    """
    objective = ELBO() if objective is None else objective
    pair = _check_arguments(model, guide, objective, num_epochs, batch_size, lr, clip_norm, patience)
    if device is not None:
        pair.to(device)
    where, dtype = placement(pair)
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
    ours = isinstance(objective, Objective)
    particles, nesting = objective.num_particles if ours else 1, objective.max_plate_nesting
    for name, held in (("data", batches), ("valid", valid_batches)):
        if held is not None:
            kinds = {"enumerated": not ours, "reparameterised": ours}
            check_program(model, guide, held, name=name, num_particles=particles, max_plate_nesting=nesting, **kinds)

    initial_lr = lr(0.0) if callable(lr) else lr
    parameters = [parameter for parameter in pair.parameters() if parameter.requires_grad]
    factory = _fused_adam if optimizer is None else optimizer
    stepper = factory(parameters, lr=initial_lr)
    state = RunState(pair, stepper, None if scheduler is None else scheduler(stepper), where)
    folder = None if checkpoint is None else Path(checkpoint)
    with (
        seeded(seed, where),
        pyro.validation_enabled(False),
        matmul_precision(precision),
        evaluating(model, guide),
        _interruptible() as interrupted,
    ):
        if folder is not None:
            facts = {"batch_size": size_of_batch, "num_data": batches.num_data, "optimizer": type(stepper).__name__}
            state.open(folder, resume, facts | {"scheduler": type(state.scheduler).__name__})
        run = _Run(model, guide, pair, objective, batches, lr, clip_norm, num_epochs, state, interrupted, progress)
        return run.all_epochs(valid_batches, folder, patience, callbacks)


def _fused_adam(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def _check_arguments(
    model: Any,
    guide: Any,
    objective: Any,
    num_epochs: int,
    batch_size: int,
    lr: Any,
    clip_norm: float | None,
    patience: int | None,
) -> nn.Module:
    pair = as_module((model, guide))
    if not any(parameter.requires_grad for parameter in pair.parameters()):
        raise ValueError("model, guide: found no parameter to train, expected modules with parameters")
    if not isinstance(objective, pyro.infer.ELBO):
        raise TypeError(f"objective: found {objective!r}, expected one such as ELBO() or a Pyro ELBO")
    counts = {"num_epochs": num_epochs, "batch_size": batch_size, "patience": 1 if patience is None else patience}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: found {value!r}, expected a positive integer")
    sizes = {"lr": lr(0.0) if callable(lr) else lr, "clip_norm": 1.0 if clip_norm is None else clip_norm}
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name}: found {size!r}, expected a positive number")
    return pair


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C of a block into an event, so that it never falls inside an update; the second is Ctrl-C."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_interrupt(*_: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class _Run:
    """The loop itself, over the arguments that ``fit`` has checked."""

    model: nn.Module
    guide: nn.Module
    pair: nn.Module
    objective: Any  # a Pyro ELBO; its base class declares no method that we call
    batches: Batches
    lr: float | Callable[[float], float]
    clip_norm: float | None
    num_epochs: int
    state: RunState
    interrupted: threading.Event
    progress: bool

    def all_epochs(
        self,
        valid: Batches | None,
        folder: Path | None,
        patience: int | None,
        callbacks: Sequence[Callable[[Record], None]],
    ) -> History:
        history = History(self.state.records)
        bar = tqdm(total=self._total(), unit="img", unit_scale=True, disable=not self.progress, mininterval=0.5)
        with bar:
            history.stopped_early = _exhausted(history, patience)
            while self.state.epoch < self.num_epochs and not history.stopped_early:
                good = self.state.snapshot()
                bar.set_description(f"epoch {self.state.epoch + 1}/{self.num_epochs}")
                try:
                    if not self._epoch(bar):
                        history.interrupted = True
                        break
                    record = self._record(valid)
                except _Diverged as error:
                    self.state.restore(*good)
                    raise self._explain(folder, str(error)) from None
                self.state.end_epoch(record)
                self._show(bar, record["train_bound"])
                if folder is not None:
                    self._write(folder, history)
                for callback in callbacks:
                    callback(record)
                history.stopped_early = _exhausted(history, patience)
        if folder is not None:
            self.state.write(folder)
            if not history.records:
                save(self.pair, folder)
        return history

    def _epoch(self, bar: tqdm, careful: bool = False) -> bool:
        """Train from the state's position to the epoch's end; return False if interrupted before it."""
        state, started = self.state, time.monotonic()
        read = started
        self.model.train(), self.guide.train()
        for x in state.remaining(self.batches):
            generators = state.generators() if careful else None
            if callable(self.lr):
                for group in state.optimizer.param_groups:
                    group["lr"] = self.lr(self._fraction())
            state.optimizer.zero_grad()
            bound = self._backward(x)
            if careful:
                self._check_step(x, bound, generators)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.pair.parameters(), self.clip_norm)
            state.optimizer.step()
            state.count_step(bound, len(x))
            bar.update(len(x))
            now = time.monotonic()
            if now - read > _SECONDS_BETWEEN_READS:
                read = now
                self._show(bar, self._mean_bound())
            if self.interrupted.is_set():
                state.seconds += now - started
                return False
        state.seconds += time.monotonic() - started
        self._mean_bound()
        if not all(torch.isfinite(parameter).all() for parameter in self.pair.parameters()):
            raise _Diverged
        return True

    def _backward(self, x: Tensor) -> Tensor:
        """Accumulate the gradient of the mean loss per datum; return the summed bound, still on the device."""
        model, guide = isolated(self.model), isolated(self.guide)
        if isinstance(self.objective, Objective):
            loss, bound = self.objective.loss_and_bound(model, guide, x)
            (loss / len(x)).backward()
            return bound.detach().sum()
        if hasattr(self.objective, "differentiable_loss"):
            loss = self.objective.differentiable_loss(model, guide, x)
            (loss / len(x)).backward()
            return -loss.detach()
        loss = self.objective.loss_and_grads(model, guide, x)  # a few Pyro ELBOs offer nothing else
        for parameter in self.pair.parameters():
            if parameter.grad is not None:
                parameter.grad /= len(x)
        return torch.as_tensor(-loss, device=x.device)

    def _mean_bound(self) -> float:
        mean = self.state.mean_bound()
        if not math.isfinite(mean):
            raise _Diverged
        return mean

    def _record(self, valid: Batches | None) -> Record:
        state = self.state
        record = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_bound": self._mean_bound(),
            "valid_bound": None,
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "seconds": round(state.seconds, 3),
        }
        if valid is not None:  # the same draws at every epoch, so that epochs differ by their weights alone
            record["valid_bound"] = mean_bound(self.model, self.guide, valid, self.objective, seed=0)
            if not math.isfinite(record["valid_bound"]):
                site = self._first_bad_site(next(iter(valid)))
                raise _Diverged(
                    f"found the validation bound {record['valid_bound']}; the first value not finite is {site}"
                )
        return record

    def _write(self, folder: Path, history: History) -> None:
        self.state.write(folder)
        if history.best is history.records[-1]:
            save(self.pair, folder)
        write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history.records))

    def _show(self, bar: tqdm, bound: float) -> None:
        shown = {"bound": bound, "valid": self.state.records[-1]["valid_bound"] if self.state.records else None}
        bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items() if value is not None}, refresh=False)

    def _total(self) -> int | None:
        return None if self.batches.num_data is None else self.num_epochs * self.batches.num_data

    def _fraction(self) -> float:
        """The part of training that is done, in [0, 1); by whole epochs where the data have no length."""
        try:
            num_steps = len(self.batches)
        except TypeError:
            return self.state.epoch / self.num_epochs
        return (self.state.epoch + self.state.epoch_step / max(num_steps, 1)) / self.num_epochs

    def _check_step(self, x: Tensor, bound: Tensor, generators: Any) -> None:
        where = f"epoch {self.state.epoch + 1}, step {self.state.step + 1}"
        if not torch.isfinite(bound):
            self.state.set_generators(generators)
            site = self._first_bad_site(x)
            raise FloatingPointError(f"{where}: found the bound {bound.item()}; the first value not finite is {site}")
        for name, parameter in self.pair.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise FloatingPointError(f"{where}: found a gradient of {name!r} that is not finite")

    def _first_bad_site(self, x: Tensor) -> str:
        nesting = min(self.objective.max_plate_nesting, 8)  # infinite in a Pyro ELBO that was not told
        return first_bad_site(self.model, self.guide, x, self.objective.num_particles, int(nesting))

    def _explain(self, folder: Path | None, found: str) -> FloatingPointError:
        """Run the epoch again from its beginning, checking every step, to say where it went wrong."""
        good = self.state.snapshot()
        try:
            with tqdm(disable=True) as bar:
                self._epoch(bar, careful=True)
            what = found or "the bound was not finite, but is when the epoch is run again"
            what = f"epoch {self.state.epoch + 1}, after step {self.state.step}: {what}"
        except FloatingPointError as error:
            what = str(error)
        except _Diverged:
            what = f"epoch {self.state.epoch + 1}: the step that ended it made a parameter infinite or NaN"
        self.state.restore(*good)
        kept = "" if folder is None else f"; the checkpoint in {folder} is that of the last good epoch"
        return FloatingPointError(f"{what}; the programs hold the weights of the last good epoch{kept}")


def _exhausted(history: History, patience: int | None) -> bool:
    if patience is None or not history.records:
        return False
    return history.records[-1]["epoch"] - history.best["epoch"] >= patience


def tensorboard(folder: str | os.PathLike[str]) -> Callable[[Record], None]:
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
            if name != "epoch" and value is not None:
                writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    return log
