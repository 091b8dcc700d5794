"""The training loop, over arguments that :func:`pyro_vae.fit` has checked.

::

    for each epoch
        for each batch x
            loss = - sum_b bound(x_b)        the objective's, or any Pyro ELBO's
            step the optimiser down the gradient of loss / len(x)
        validate, record, write the checkpoint

Sums stay on the device and are read a few times a second, so a GPU never waits for Python. When such a read finds that
the bound is no longer finite, the weights are lost already; the loop then goes back to the beginning of the epoch and
runs it again, step by step, to name the step and the site.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_vae.batches import Batches
from pyro_vae.checkpoint import save
from pyro_vae.checks import first_bad_site
from pyro_vae.compilation import Outputs
from pyro_vae.evaluation import mean_estimate
from pyro_vae.files import write_text
from pyro_vae.handlers import kl_weights
from pyro_vae.replay import ReplayedUpdate
from pyro_vae.run_state import RunState
from pyro_vae.schedules import Schedule
from pyro_vae.state import set_generators
from pyro_vae.updates import Update

__all__ = ["History", "Loop", "Record"]

Record = dict[str, Any]
_SECONDS_BETWEEN_READS = 0.5


@dataclass
class History:
    """What a run did: one record an epoch, and how it ended.

    A record holds ``epoch``, ``step``, ``train_bound`` (the mean over the epoch, while the weights changed) and
    ``valid_bound`` (``None`` without validation data), both in nats per datum; ``learning_rate`` and ``seconds``. These
    are true bounds, whatever is annealed; ``train_loss`` and ``valid_loss`` are what training minimises, the second
    with every schedule at its end. ``kl_weight`` is there when the KL is annealed, ``capacity`` when it has one.
    """

    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    stopped_early: bool = False

    @property
    def best(self) -> Record:
        """The record with the smallest validation loss, or the last one without validation."""
        scored = [record for record in self.records if record["valid_loss"] is not None]
        return min(scored, key=lambda record: record["valid_loss"]) if scored else self.records[-1]


class _Diverged(Exception):
    """The bound or a parameter is no longer finite; caught by the loop, which then looks for the step."""


@dataclass
class Loop:
    """One run: what trains, on what, from which state."""

    model: nn.Module
    guide: nn.Module
    pair: nn.Module
    schedules: list[Schedule]
    objective: Any  # a Pyro ELBO; its base class declares no method that we call
    batches: Batches
    lr: float | Callable[[float], float]
    num_epochs: int
    update: Update | ReplayedUpdate
    summed: Callable[[Tensor], Outputs]  # summed_bounds
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
        num_data = self.batches.num_data
        bar = tqdm(
            total=None if num_data is None else self.num_epochs * num_data,
            initial=self.state.epoch * (num_data or 0) + self.state.count,
            unit="img",
            unit_scale=True,
            disable=not self.progress,
            mininterval=0.5,
        )
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
        for pick in state.remaining(self.batches):
            if callable(self.lr):
                for group in state.optimizer.param_groups:
                    group["lr"] = self.lr(self._fraction())
            for schedule in self.schedules:
                schedule.set_step(state.step)
            bounds, num_data = self.update(pick, self._check_step if careful else None)
            state.count_step(bounds, num_data)
            bar.update(num_data)
            now = time.monotonic()
            if now - read > _SECONDS_BETWEEN_READS:
                read = now
                self._show(bar, self._mean_bounds()[0])
            if self.interrupted.is_set():
                state.seconds += now - started
                return False
        state.seconds += time.monotonic() - started
        self._mean_bounds()
        if not all(torch.isfinite(parameter).all() for parameter in self.pair.parameters()):
            raise _Diverged
        return True

    def _mean_bounds(self) -> list[float]:
        means = self.state.mean_bounds()
        if not all(map(math.isfinite, means)):
            raise _Diverged
        return means

    def _record(self, valid: Batches | None) -> Record:
        state = self.state
        for schedule in self.schedules:  # also where the epoch was resumed at its end, with no step left
            schedule.set_step(state.step)
        train_bound, maximised = self._mean_bounds()
        record = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_bound": train_bound,
            "train_loss": -maximised,
            "valid_bound": None,
            "valid_loss": None,
            **kl_weights(self.model),
            **self._capacity(),
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "seconds": round(state.seconds, 3),
        }
        if valid is not None:  # the same draws at every epoch, so that epochs differ by their weights alone
            with self._at_the_end():
                record["valid_bound"], maximised = mean_estimate(
                    self.model, self.guide, valid, self.objective, seed=0, summed=self.summed
                )
            record["valid_loss"] = -maximised
            if not math.isfinite(record["valid_bound"]):
                site = self._first_bad_site(next(iter(valid)))
                raise _Diverged(
                    f"found the validation bound {record['valid_bound']}; the first value not finite is {site}"
                )
        return record

    def _capacity(self) -> dict[str, float]:
        capacity = getattr(self.objective, "capacity", None)
        if capacity is None:
            return {}
        return {"capacity": capacity.value.item() if isinstance(capacity, Schedule) else capacity}

    @contextmanager
    def _at_the_end(self) -> Iterator[None]:
        """Set the schedules to their end, so that what is maximised compares from epoch to epoch, and back."""
        steps = [schedule.num_taken for schedule in self.schedules]
        try:
            for schedule in self.schedules:
                schedule.set_step(schedule.num_steps)
            yield
        finally:
            for schedule, step in zip(self.schedules, steps, strict=True):
                schedule.set_step(step)

    def _write(self, folder: Path, history: History) -> None:
        """Write what the epoch made, the state last: a run that dies in between repeats the epoch."""
        if history.best is history.records[-1]:
            save(self.pair, folder)
        write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history.records))
        self.state.write(folder)

    def _show(self, bar: tqdm, bound: float) -> None:
        shown = {"bound": bound, "valid": self.state.records[-1]["valid_bound"] if self.state.records else None}
        bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items() if value is not None}, refresh=False)

    def _fraction(self) -> float:
        """The part of training that is done, in [0, 1); by whole epochs where the data have no length."""
        try:
            num_steps = len(self.batches)
        except TypeError:
            return self.state.epoch / self.num_epochs
        return (self.state.epoch + self.state.epoch_step / max(num_steps, 1)) / self.num_epochs

    def _check_step(self, x: Tensor, bounds: Tensor, before: dict[str, Tensor]) -> None:
        where = f"epoch {self.state.epoch + 1}, step {self.state.step + 1}"
        if not torch.isfinite(bounds).all():
            set_generators(before, self.state.device)
            site = self._first_bad_site(x)
            raise FloatingPointError(
                f"{where}: found the bound {bounds[0].item()}; the first value not finite is {site}"
            )
        for name, parameter in self.pair.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise FloatingPointError(f"{where}: found a gradient of {name!r} that is not finite")

    def _first_bad_site(self, x: Tensor) -> str:
        nesting = min(self.objective.max_plate_nesting, 8)  # infinite in a Pyro ELBO that was not told
        particles = getattr(self.objective, "total_particles", self.objective.num_particles)
        return first_bad_site(self.model, self.guide, x, particles, int(nesting))

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
        finally:
            self.state.restore(*good)
        kept = "" if folder is None else f"; the checkpoint in {folder} is that of the last good epoch"
        return FloatingPointError(f"{what}; the programs hold the weights of the last good epoch{kept}")


def _exhausted(history: History, patience: int | None) -> bool:
    if patience is None or not history.records:
        return False
    return history.records[-1]["epoch"] - history.best["epoch"] >= patience
