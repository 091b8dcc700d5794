r"""The order in which rows of stored data are read: blocks are shuffled, and then the rows of a window of blocks.

Single rows at random places of a disk are slow to read, and a chunk has to be decoded for any one of its rows. So an
epoch draws an order of all blocks, cuts it into windows of W blocks, and draws an order of the rows in each window. A
window is held in memory, and each block is read once.

**How far this is from a full shuffle.** Every row is as likely as any other to come at any place of the epoch. Which
rows meet in a batch is another matter. Two rows of one block are always in the same window. In a window of M rows, cut
into batches of B, and among N rows in all, they meet in a batch with the probability

.. math:: P_{\text{window}} = \frac{B - 1}{M - 1}
          \qquad\text{instead of}\qquad
          P_{\text{full}} = \frac{B - 1}{N - 1},

a factor of about N/M more often. Rows of different blocks meet less often, by a factor of about

.. math:: 1 - \frac{b}{M} = 1 - \frac{1}{W}

for blocks of b rows. Data in an order that has nothing to do with their values are as well mixed as by a full shuffle.
In data that are sorted, such as cells by their donor, a block is of one kind. A batch is then drawn from the W kinds in
its window, and the share of a kind with the frequency f varies between batches by

.. math:: \operatorname{Var} \approx f (1 - f) \Bigl(\frac{1}{W} + \frac{1 - 1/W}{B}\Bigr)
          \qquad\text{instead of}\qquad \frac{f (1 - f)}{B} .

With W of several times B the two are close, and with W of a few they are not: shuffle such data once when you write
them. If all data fit into one window, this is a full shuffle.

Several processes that read ahead have a window each. They take turns, batch by batch, so that a block is read by one of
them alone. Their number belongs to the order, as the size of a window does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

__all__ = ["BlockSampler"]

_Rows = npt.NDArray[np.int64]


class _Turn(NamedTuple):
    """The rows of a batch, and what may be read in the meantime: the blocks of the next window, and those to keep."""

    rows: _Rows
    ahead: tuple[_Rows, _Rows] | None = None


class BlockSampler(Sampler[int]):
    """Yields each row once, in an order that is drawn from torch's generator when the first one is asked for.

    Parameters
    ----------
    starts
        Where the blocks begin, and the number of rows.
    window
        The number W of blocks in a window.
    batch_size
        How many rows a batch has, as processes take turns by batches.
    num_readers
        The number of processes.
    shuffle
        Whether to shuffle; otherwise the rows come in their order.

    Attributes
    ----------
    skip
        How many rows the next pass leaves out at its beginning, without another order.
    read_ahead
        Called with the blocks of the next window and those of the one before it, when the first batch of the latter
        was asked for; ``None`` if nobody reads ahead.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> list(BlockSampler(np.array([0, 2, 4, 6, 8]), window=2, batch_size=4))
    [5, 4, 7, 6, 1, 0, 3, 2]
    """

    def __init__(
        self, starts: npt.NDArray[Any], *, window: int, batch_size: int, num_readers: int = 1, shuffle: bool = True
    ) -> None:
        self.starts, self.window, self.batch_size = starts, window, batch_size
        self.num_readers, self.shuffle, self.skip = num_readers, shuffle, 0
        self._seed = 0  # of the pass begun last
        self.read_ahead: Callable[[_Rows, _Rows], object] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __iter__(self) -> Iterator[int]:
        skip, self.skip = self.skip, 0
        if self.shuffle:
            self._seed = int(torch.empty((), dtype=torch.int64).random_().item())
        yield from self._rows(skip, self.read_ahead)

    def row_at(self, place: int) -> int:
        """Return the row that comes at a place of the pass that was begun last."""
        return next(self._rows(place))

    def _rows(self, skip: int, read_ahead: Callable[[_Rows, _Rows], object] | None = None) -> Iterator[int]:
        if not self.shuffle:
            yield from range(skip, len(self))
            return
        for rows, ahead in self._batches(torch.Generator().manual_seed(self._seed)):
            if skip < len(rows):
                if read_ahead is not None and ahead is not None:
                    read_ahead(*ahead)
                yield from rows[skip:].tolist()
            skip = max(0, skip - len(rows))

    def _batches(self, generator: torch.Generator) -> Iterator[_Turn]:
        """Yield batches of each reader in turn, and then what is left of all of them."""
        blocks = torch.randperm(len(self.starts) - 1, generator=generator).numpy()
        windows = [blocks[first : first + self.window] for first in range(0, len(blocks), self.window)]
        left: list[_Rows] = []
        shares = (windows[index :: self.num_readers] for index in range(self.num_readers))
        readers = [self._of_reader(share, generator, left) for share in shares]
        while readers:
            for reader in list(readers):
                turn = next(reader, None)
                if turn is None:
                    readers.remove(reader)
                else:
                    yield turn
        yield _Turn(np.concatenate([*left, np.empty(0, np.int64)]))

    def _of_reader(
        self, windows: list[npt.NDArray[Any]], generator: torch.Generator, left: list[_Rows]
    ) -> Iterator[_Turn]:
        rest = np.empty(0, np.int64)
        for window, following in zip_longest(windows, windows[1:]):
            rows = np.concatenate([np.arange(self.starts[block], self.starts[block + 1]) for block in window])
            rest = np.concatenate([rest, rows[torch.randperm(len(rows), generator=generator).numpy()]])
            whole = len(rest) - len(rest) % self.batch_size
            for first in range(0, whole, self.batch_size):  # the first batch has rows of the window before, too
                ahead = (following, window) if first == self.batch_size and following is not None else None
                yield _Turn(rest[first : first + self.batch_size], ahead)
            rest = rest[whole:]
        left.append(rest)

    def __repr__(self) -> str:
        if not self.shuffle:
            return "in order"
        readers = f" by {self.num_readers} readers" if self.num_readers > 1 else ""
        return f"{len(self.starts) - 1} blocks shuffled in windows of {self.window}{readers}"
