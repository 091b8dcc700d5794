r"""Data that stay on disk: larger than memory, read window by window and made batches.

A pass reads blocks of rows in the order of :mod:`pyro_vae.data.block_order`, holds one window of them in memory
(:mod:`pyro_vae.data.windows`), and takes batches from it. What is held is

.. math:: \text{readers} \times W b \times \text{bytes of a row}

for windows of W blocks of b rows, whatever the number of rows. Where a block has to be decoded, two worker processes of
torch's ``DataLoader`` read ahead, each with a window of its own. A memory map or an ``.npy`` file is read by the
process itself, since a read costs little more than the copy that brings a batch from a worker.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.data.arrays import kind_of
from pyro_vae.data.batch import Arguments
from pyro_vae.data.opening import Opened, opened
from pyro_vae.data.storages import Sliced, Storage
from pyro_vae.data.windows import Window, read_rows
from pyro_vae.runtime.arguments import NonNegativeInteger, PositiveInteger, checked
from pyro_vae.runtime.foreign import advice
from pyro_vae.runtime.memory import in_words
from pyro_vae.runtime.objects import Data

__all__ = ["Stored", "together"]

_WINDOW_BYTES = 256 << 20
_BLOCKS = 64  # in a window, at least, where the storage has none of its own
_ROWS = 1000  # read at once where it does not matter


class Stored(Dataset[Any]):
    """N data that stay where they are stored, read a window at a time; a map-style ``Dataset``.

    :func:`pyro_vae.fit` and all that scores take it, and make it of data that are too large for the memory by
    themselves (:mod:`pyro_vae.data.opening`). A ``DataLoader`` of your own may read it too, row by row.

    Parameters
    ----------
    data
        What :func:`pyro_vae.data.opening.opened` takes, such as a memory map or a path; or a tuple or dictionary of
        these and of arrays.
    key
        The array, layer or column that is the data, where there are several.
    labels
        Labels ``(N,)``, or the name of a column of them; reading never returns them.
    window_bytes
        The most that each process which reads holds of the data.
    num_workers
        In how many worker processes to read ahead; by default 2 where blocks have to be decoded, otherwise none. It
        belongs to the order of the data. By default a rank of several reads in that order by itself, since it cannot
        fork workers safely.

    Raises
    ------
    TypeError, ValueError, ImportError
        For data that cannot be read so, or with blocks larger than ``window_bytes``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.arange(20.0).reshape(10, 2))
    ...     stored = Stored(f"{folder}/x.npy")
    ...     stored, stored[3]
    (Stored(10 x (2,), 160 bytes in x.npy, read by blocks of 10 rows, 160 bytes), tensor([6., 7.], dtype=torch.float64))
    """

    @checked
    def __init__(
        self,
        data: Annotated[Any, Data("data on disk")],
        *,
        key: str | None = None,
        labels: Annotated[Any, Data("labels")] = None,
        window_bytes: PositiveInteger = _WINDOW_BYTES,
        num_workers: NonNegativeInteger | None = None,
    ) -> None:
        found = data if isinstance(data, Opened) else _found(data, key, labels)
        if found is None:
            raise TypeError(f"data: found {kind_of(data)}, expected data on disk, such as a memory map{advice(data)}")
        self.window_bytes = window_bytes
        self._take(found)
        storages: list[Storage] = list(found.columns.values)
        self.own_workers = num_workers
        self.num_workers = max(each.num_workers for each in storages) if num_workers is None else num_workers
        if self.block_bytes > window_bytes:
            raise ValueError(
                f"window_bytes: found {in_words(window_bytes)} for {self.title}, whose largest block takes "
                f"{in_words(self.block_bytes)}, expected more, by pyro_vae.data.Stored(data, window_bytes=...), or "
                "data written in smaller chunks, row groups or files"
            )

    def _take(self, found: Opened) -> None:
        self.opened, self.columns, self.title = found, found.columns, found.title
        self.labels, self.rows, self.levels = found.labels, found.rows, found.levels
        self.row_bytes = sum(each.row_bytes for each in self.columns.values)
        held = sum(each.row_bytes * each.num_copies for each in self.columns.values)
        largest = max(each.block_bytes for each in self.columns.values)
        size = int(min(largest, self.window_bytes // _BLOCKS) // held)
        self.starts = min((each.blocks(max(1, size)) for each in self.columns.values), key=len)
        self.block_bytes = float(np.diff(self.starts).max() * held)

    def having(self, found: Opened) -> Stored:
        """Return other rows or columns, to be read in the same way."""
        other = copy.copy(self)
        other._take(found)
        return other

    def split(self, rows: npt.NDArray[np.int64], labels: Tensor | None, level: int) -> Stored:
        """Return some rows, in their order on the disk, with their labels; values are divided by ``level``."""
        order = np.argsort(rows)
        chosen = None if labels is None else labels[torch.from_numpy(rows[order])]
        return self.having(self.opened._replace(rows=rows[order], labels=chosen, levels=(level,)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data, of several columns that of the first."""
        return len(self), *self.columns.values[0].shape[1:]

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one datum, of several columns that of the first."""
        return self.shape[1:]

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int | slice | Tensor | npt.NDArray[Any] | Sequence[int]) -> Any:
        if isinstance(index, (int, np.integer)):
            return _each(self[[int(index)]], operator.itemgetter(0))
        chosen = np.arange(len(self))[index.numpy() if isinstance(index, Tensor) else index]
        rows = chosen if self.rows is None else self.rows[chosen]
        return self.made([read_rows(each, rows) for each in self.columns.values])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several data, as a ``DataLoader`` asks for them."""
        found = self[list(indices)]
        return [_each(found, operator.itemgetter(row)) for row in range(len(indices))]

    def made(self, values: list[Tensor]) -> Any:
        """Return what a batch is from the rows of each column: a tensor, a tuple or a dictionary."""
        for index, level in enumerate(self.levels[: len(values)]):
            if level != 1:
                values[index] = values[index].float() / level
        columns = self.columns
        if columns.kwargs:
            return dict(zip(columns.kwargs, values, strict=True))
        return values[0] if len(values) == 1 else tuple(values)

    def mean(self) -> Tensor:
        """Return the mean of the data, ``(*data_shape)`` in float32, for which all are read once."""
        window, total = Window(self.columns.values, self.starts, 1), torch.zeros(self.data_shape, dtype=torch.float64)
        for first in range(0, len(self), _ROWS):
            rows = np.arange(first, min(first + _ROWS, len(self)))
            total += window.take(rows if self.rows is None else self.rows[rows])[0].double().sum(0)
        return (total / (len(self) * (self.levels or (1,))[0])).float()

    def __repr__(self) -> str:
        size = in_words(len(self) * self.row_bytes)
        return f"Stored({len(self)} x {self.data_shape}, {size} in {self.title}, read by blocks of {self._block()})"

    def _block(self) -> str:
        return f"{int(np.diff(self.starts).max())} rows, {in_words(self.block_bytes)}"


def _found(data: Any, key: str | None, labels: Any) -> Opened | None:
    """Return data that stay on disk, ``None`` for others."""
    if isinstance(data, tuple):
        return together(Arguments(*data))
    return together(Arguments(**data)) if isinstance(data, Mapping) else opened(data, key, labels)


def together(entries: Arguments) -> Opened | None:
    """Return data on disk and arrays of the same rows as one, ``None`` where nothing is on disk."""
    parts = [value if isinstance(value, Stored) else opened(value) for value in entries.values]
    found = [each.opened if isinstance(each, Stored) else each for each in parts]
    first = next((each for each in found if each is not None), None)
    if first is None:
        return None
    num_rows = len(first.columns.values[0])
    columns, levels, sizes = [], [], []
    for value, each in zip(entries.values, found, strict=True):
        if each is not None:
            if len(each.columns.values) != 1:
                raise ValueError(
                    f"data: found {len(each.columns.values)} columns as one entry of several, expected one"
                )
            if not np.array_equal(each.rows, first.rows):
                raise ValueError("data: found entries of other rows, expected splits of one call of load")
            columns.append(each.columns.values[0])
        elif isinstance(value, (Tensor, np.ndarray)) and value.ndim:
            columns.append(_array(value, first.rows, num_rows))
        else:
            raise TypeError(f"data: found {kind_of(value)} beside data on disk, expected arrays and data on disk alone")
        levels.append(each.levels[0] if each is not None and each.levels else 1)
        sizes.append(len(columns[-1]))
    if len(set(sizes)) != 1:
        raise ValueError(f"data: found entries of {' and '.join(map(str, sizes))} data, expected equally many")
    title = " and ".join(each.title for each in columns)
    return Opened(entries.replaced(columns), title, None, first.rows, tuple(levels))


def _array(x: Tensor | npt.NDArray[Any], rows: Any, num_rows: int) -> Storage:
    """Return an array in memory as a storage, with its rows in the places that those of a split have."""
    values = x.numpy(force=True) if isinstance(x, Tensor) else x
    if rows is not None:
        if len(values) != len(rows):
            raise ValueError(f"data: found entries of {len(rows)} and {len(values)} data, expected equally many")
        placed = np.zeros((num_rows, *values.shape[1:]), values.dtype)
        placed[rows] = values
        values = placed
    return Sliced(values, "the array")


def _each(found: Any, function: Callable[[Tensor], Any]) -> Any:
    """Return a tensor, a tuple or a dictionary with a function applied to every tensor."""
    if isinstance(found, dict):
        return {name: function(values) for name, values in found.items()}
    return tuple(map(function, found)) if isinstance(found, tuple) else function(found)
