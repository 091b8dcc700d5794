"""What a run did: one record an epoch, of plain numbers, as they stand in ``metrics.jsonl``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyro_vae.display import Result, ResultTable

__all__ = ["History", "Record", "is_exhausted"]

Record = dict[str, Any]


@dataclass(repr=False)
class History(Result):
    """What a run did: one record an epoch, and how it ended. ``print`` shows its first, best and last epoch.

    A record holds ``epoch``, ``step``, ``train_bound`` (the mean over the epoch, while the weights changed) and
    ``valid_bound`` (``None`` without validation data), both in nats per datum; ``learning_rate`` and ``seconds``. These
    are true bounds, whatever is annealed; ``train_loss`` and ``valid_loss`` are what training minimises, the second
    with every schedule at its end. ``kl_weight`` is there when the KL is annealed, ``capacity`` when it has one,
    ``global_term`` when there are latents outside of the data plate: their share in the bound of a datum, as the last
    step drew them; and ``fallback`` when something that was to be compiled was not: why.
    """

    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    stopped_early: bool = False

    @property
    def best(self) -> Record:
        """The record with the smallest validation loss, or the last one without validation."""
        scored = [record for record in self.records if record["valid_loss"] is not None]
        return min(scored, key=lambda record: record["valid_loss"]) if scored else self.records[-1]

    @property
    def fallback(self) -> str | None:
        """Why the run, or a part of it, was not compiled although it was to be; ``None`` if it was."""
        return next((record["fallback"] for record in reversed(self.records) if "fallback" in record), None)

    def plot(self) -> Any:
        """Return a figure of the bounds by epoch, see :func:`pyro_vae.plots.learning_curve`."""
        from pyro_vae.plots import learning_curve  # only here, as it needs matplotlib

        return learning_curve(self)

    def _table(self) -> ResultTable:
        records = self.records
        if not records:
            return ResultTable(("",), [], "History of no epoch")
        chosen = {"first": records[0], "best": self.best, "last": records[-1]}
        columns = ("epoch", "step", "train_bound", "valid_bound", "learning_rate")
        rows = [(name, *(_shown(record.get(column)) for column in columns)) for name, record in chosen.items()]
        seconds = sum(record.get("seconds", 0.0) for record in records)
        title = f"History of {len(records)} epoch{'s' * (len(records) > 1)}, {seconds:.1f} s; bounds in nats per datum"
        notes = ["Interrupted."] * self.interrupted + ["Stopped early."] * self.stopped_early
        notes += [] if self.fallback is None else [f"Not compiled: {self.fallback}"]
        return ResultTable(("", *columns), rows, title, notes)

    def _columns(self) -> dict[str, Any]:
        names = dict.fromkeys(name for record in self.records for name in record)
        return {name: [record.get(name) for record in self.records] for name in names}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def is_exhausted(history: History, patience: int | None) -> bool:
    """Tell whether the validation loss has not fallen for ``patience`` epochs."""
    if patience is None or not history.records:
        return False
    return history.records[-1]["epoch"] - history.best["epoch"] >= patience
