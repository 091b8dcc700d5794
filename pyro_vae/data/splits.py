"""A data set as training, validation and test data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro_vae.data.sparse import SparseSplit
from pyro_vae.data.split import Split
from pyro_vae.data.stored import Stored
from pyro_vae.display import Result, ResultTable

__all__ = ["Splits"]


@dataclass(frozen=True, repr=False)
class Splits(Result):
    """The result of :func:`load`: ``train``, ``valid`` and ``test``, and the ``name`` of the data set.

    ``classes`` are the names of the classes where labels were given as names: label 0 is that of the first.
    """

    train: Split | SparseSplit | Stored
    valid: Split | SparseSplit | Stored
    test: Split | SparseSplit | Stored
    name: str
    classes: tuple[str, ...] | None = None

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.train.data_shape

    def plot(self) -> Any:
        """Return a figure of the first training images, see :func:`pyro_vae.plots.samples`."""
        from pyro_vae.plots import samples  # only here, as it needs matplotlib

        return samples(self.train[:50])

    def _table(self) -> ResultTable:
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        rows = [(f"{name:5}  {part!r}", f"{len(part):,}") for name, part in parts.items()]
        classes = "" if self.classes is None else f", {len(self.classes)} classes"
        return ResultTable((self.name, "data"), rows, f"Data of shape {self.data_shape}{classes}")

    def _columns(self) -> dict[str, Any]:
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {"split": list(parts), "num_data": list(map(len, parts.values()))}
