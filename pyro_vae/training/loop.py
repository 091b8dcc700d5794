"""The training loop, over arguments that :func:`pyro_vae.fit` has checked.

::

    for each epoch
        for each batch x
            loss = - sum_b bound(x_b)        the objective's, or any Pyro ELBO's
            step the optimiser down the gradient of loss / len(x)
        validate, record, write the checkpoint

Sums stay on the device and are read a few times a second, so a GPU never waits for Python. What happens when such a
read finds that the bound is no longer finite is in :mod:`pyro_vae.training.nonfinite`.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_vae.compilation.compiled import Outputs
from pyro_vae.data.batch import Batch
from pyro_vae.data.batches import Batches
from pyro_vae.inference.annealing import kl_weights
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.ranks import alone
from pyro_vae.schedules import Schedule
from pyro_vae.training.averaging import agree
from pyro_vae.training.checkpoint import write_program
from pyro_vae.training.compiled_update import CompiledUpdate
from pyro_vae.training.decisions import Decider
from pyro_vae.training.history import History, Record, is_exhausted
from pyro_vae.training.nonfinite import Diverged, StepCheck, explain
from pyro_vae.training.progress import make_bar, show
from pyro_vae.training.run_schedule import RunSchedule, capacity_of
from pyro_vae.training.run_state import RunState
from pyro_vae.training.untrained import Untrained
from pyro_vae.training.update import Update, in_blocks
from pyro_vae.training.validation import Interrupted, Validation

__all__ = ["Loop"]


@dataclass(kw_only=True)
class Loop:
    """One run: what trains, on what, from which state."""

    model: nn.Module
    guide: nn.Module
    module: nn.Module
    trained: Sequence[nn.Parameter]
    schedules: list[Schedule]
    objective: Any  # a Pyro ELBO; its base class declares no method that we call
    batches: Batches
    schedule: RunSchedule
    num_epochs: int
    update: Update | CompiledUpdate
    summed: Callable[[Batch], Outputs]  # summed_bounds
    reasons: Callable[[], list[str]]  # why those are not compiled
    state: RunState
    folder: Path | None
    checkpoint_seconds: float
    interrupted: threading.Event
    progress: bool

    def __post_init__(self) -> None:
        seconds = None if self.folder is None else self.checkpoint_seconds
        self._decider = Decider(self.update, self.batches, self.interrupted, seconds)
        self._in_step = False
        self._ranks = self.batches.ranks
        self._untrained = Untrained(self.module, self.objective, self.trained)
        self._validate = Validation(
            self.model, self.guide, self.objective, self.schedules, self.summed,
            self.interrupted if self._ranks.size == 1 else threading.Event(),  # else all of them stop after it
        )  # fmt: skip
        self._step_check = StepCheck(self.model, self.guide, self.module, self.objective, self.state, self._ranks)
        self.history = History(self.state.records)

    def all_epochs(
        self, valid: Batches | None, patience: int | None, callbacks: Sequence[Callable[[Record], None]]
    ) -> History:
        history = self.history
        with make_bar(self.state, self.num_epochs, self.batches.num_data, self.progress) as bar:
            history.stopped_early = is_exhausted(history, patience)
            while self.state.epoch < self.num_epochs and not history.stopped_early:
                good = self.state.snapshot()
                bar.set_description(f"epoch {self.state.epoch + 1}/{self.num_epochs}")
                try:
                    if not self._epoch(bar):
                        history.interrupted = True
                        break
                    agree(self.module, self._ranks)
                    record = self._record(valid)
                except Interrupted:
                    history.interrupted = True
                    break
                except (RuntimeError, OSError, EOFError) as error:
                    if not self._ended_workers(error):
                        raise
                    history.interrupted = True
                    if self._in_step or self.state.epoch_step == 0:  # a step or an order that was drawn in part
                        self.state.restore(*good)
                    if self._in_step:  # what is on disk may be further on
                        return history
                    break
                except ValueError:  # of data that are checked as they come
                    self._go_back(good, is_alone=True)
                    raise
                except Diverged as error:
                    self._go_back(good)
                    raise explain(self.state, self._rerun, str(error), self.folder) from None
                self.state.end_epoch(record)
                show(bar, self.state, record["train_bound"])
                if self.folder is not None:
                    self._write(self.folder, history)
                self._call(callbacks, record)
                history.stopped_early = is_exhausted(history, patience)
        if self.folder is not None:
            self.state.write(self.folder)
            if not history.records and self._ranks.is_first:
                write_program(self.module, self.folder)
        return history

    def _call(self, callbacks: Sequence[Callable[[Record], None]], record: Record) -> None:
        """Call the callbacks, on rank 0 alone; what they score is not shared."""
        with alone():
            for callback in callbacks if self._ranks.is_first else ():
                callback(record)

    def _ended_workers(self, error: Exception) -> bool:
        """Tell whether the signal that is to end the run has ended a loader's workers too, as one to a group does.

        Torch raises one error wherever Python happens to be when a worker dies; reading from a dead one raises others.
        """
        if self._ranks.size > 1:  # which have to stop at the same step
            return False
        is_of_workers = "DataLoader worker" in str(error) or not (self._in_step or self.batches.resident)
        return is_of_workers and self.interrupted.wait(timeout=1.0)

    def _go_back(self, good: tuple[dict[str, Tensor], dict[str, Any]], is_alone: bool = False) -> None:
        """Go back to the beginning of the epoch, on disk too, where the state may have been written since."""
        self.state.restore(*good)
        if self.folder is not None and not (is_alone and self._ranks.size > 1):
            self._write_state(self.folder)

    def _epoch(self, bar: tqdm, careful: bool = False) -> bool:
        """Train from the state's position to the epoch's end; return False if interrupted before it."""
        state, started, is_whole = self.state, time.monotonic(), self.state.epoch_step == 0
        self._decider.begin()
        self.model.train(), self.guide.train()
        check = self._step_check if careful else None
        for picks in in_blocks(state.remaining(self.batches), self.batches.share_size, lambda: self._decider.longest):
            self._in_step = True
            begun = time.monotonic()
            num_data = self.update(picks, self.schedule, check)
            state.count_steps(len(picks), num_data)
            self._in_step = False
            if not careful:
                self._untrained.count_steps(self.update.has_gradient)
            done = self._decider.after(len(picks), num_data, begun, careful)
            bar.update(done.num_data)
            if done.reads:
                show(bar, self.state, self._mean_bounds()[0])
            if done.stops:
                state.seconds += time.monotonic() - started
                return False
            if done.writes and self.folder is not None:
                state.seconds += time.monotonic() - started
                self._check_finite()
                self._write_state(self.folder)
                started = time.monotonic()
        state.seconds += time.monotonic() - started
        if state.epoch_step == 0:
            raise ValueError(
                f"data: found none in epoch {state.epoch + 1}, expected a data set that can be gone through at each "
                "epoch; one that can be only once takes num_epochs=1"
            )
        self._check_finite()
        if is_whole and not careful:
            self._untrained.end_epoch()
        return True

    def _rerun(self) -> None:
        """Run the epoch under way again, checking every step."""
        self._decider.longest = 1
        with tqdm(disable=True) as bar:
            self._epoch(bar, careful=True)

    def _check_finite(self) -> None:
        self._mean_bounds()
        finite = [torch.isfinite(parameter).all() for parameter in self.module.parameters()]
        if finite and not torch.stack(finite).all():  # one read of the device
            raise Diverged

    def _mean_bounds(self) -> list[float]:
        if not all(map(math.isfinite, means := self.state.mean_bounds())):
            raise Diverged
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
            **capacity_of(self.objective),
            **({} if self.update.global_term is None else {"global_term": self.update.global_term.item()}),
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "seconds": round(state.seconds, 3),
        }
        if valid is not None:
            bound, maximised = self._validate(valid)
            record |= {"valid_bound": bound, "valid_loss": -maximised}
            if not math.isfinite(bound):
                site = self._step_check.first_bad_site(valid.first())
                raise Diverged(f"found the validation bound {bound}; the first value not finite is {site}")
        record |= {"fallback": "; ".join(self.fallbacks())} if self.fallbacks() else {}
        return self._ranks.first(lambda: record)

    def fallbacks(self) -> list[str]:
        """Return why what was to be compiled is not, as far as that is known."""
        return [*self.update.reasons(), *self.reasons()]

    def _write(self, folder: Path, history: History) -> None:
        """Write what the epoch made, the state last: a run that dies in between repeats the epoch."""
        if self._ranks.is_first:
            if history.best is history.records[-1]:
                write_program(self.module, folder)
            write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history.records))
        self._write_state(folder)

    def _write_state(self, folder: Path) -> None:
        self.state.write(folder)
        self._decider.wrote()
