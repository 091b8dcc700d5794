"""Batches of resident data or of a loader, drawn from generators whose states can be restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae.data.arrays import check_exact
from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.data.entries import Entries
from pyro_vae.data.joint import Joint
from pyro_vae.data.loaders import Begun, first_of, is_read_once, own_generators
from pyro_vae.data.reading import begins_at, cuts_rows, passing, reads_rows, skip
from pyro_vae.data.shares import Part, ShareSampler, in_step, once, rows_of, share_next, share_of, sharing_loader
from pyro_vae.data.split import Split
from pyro_vae.runtime.ranks import Ranks
from pyro_vae.runtime.state import generators, set_generators

__all__ = ["Batches", "Pick"]

Pick: TypeAlias = Batch | slice | Part


class Batches:
    """Batches on one device, floating point data in one type; each ``iter()`` goes through the data once.

    They are made by :func:`as_batches`. ``num_data`` is the number of data, or ``None`` where it is not known. Of an
    iterable data set without a length, ``len()``, the number of batches, raises ``TypeError``. Those that are
    :meth:`shared` among the ranks of a process group yield one rank's share of each batch; numbers are of whole batches
    but where it says otherwise.
    """

    def __init__(
        self,
        source: Split | Joint | DataLoader[Any],
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        shuffle: bool,
        entries: Entries | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks, self._source, self._entries = ranks or Ranks(), source, entries or Entries()
        self._loader: Any = sharing_loader(source, self.ranks) if isinstance(source, DataLoader) else source
        self._batch_size, self._device, self._dtype, self._shuffle = batch_size, device, dtype, shuffle
        self._begun: Begun | None = None
        self._check: Callable[[Batch, int], None] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self._device

    @property
    def batch_size(self) -> int | None:
        """The number of data in a whole batch, or ``None`` for a loader whose sampler decides it."""
        return self._source.batch_size if isinstance(self._source, DataLoader) else self._batch_size

    @property
    def share_size(self) -> int | None:
        """The number of data that are this rank's in a whole batch."""
        return self.batch_size and share_of(self.batch_size, self.ranks).num_data

    @property
    def resident(self) -> bool:
        """True if the data lie on the device, so that a pass through them costs little."""
        return not isinstance(self._source, DataLoader)

    @property
    def can_be_ahead(self) -> bool:
        """True if picks draw at the beginning of a pass alone, and nothing is gained by asking for one at a time."""
        return self.resident or reads_rows(self._source)

    @property
    def cuts_rows(self) -> bool:
        """True if a batch has a row for each datum, since it was cut, or put together, along the first dimension."""
        return cuts_rows(self._source)

    @property
    def parts(self) -> list[Any]:
        """The objects that resident batches are read from; none for a loader."""
        if isinstance(self._source, DataLoader):
            return []
        inner = self._source.entries.values if isinstance(self._source, Joint) else ()
        return [self._source, *(each for each in inner if isinstance(each, Split))]

    def stored(self) -> list[Tensor]:
        """Return the tensors in which resident data lie."""
        entries = self._source.entries.values if isinstance(self._source, Joint) else [self._source]
        values = (each.values if isinstance(each, Split) else each for each in entries)
        return [value for value in values if isinstance(value, Tensor)]

    def generators(self) -> dict[str, Tensor]:
        """Return the states of the generators that a pass draws from: torch's and the loader's own."""
        return generators(self._device) | {name: own.get_state() for name, own in own_generators(self._source).items()}

    def set_generators(self, states: dict[str, Tensor]) -> None:
        """Restore the states that :meth:`generators` returned."""
        set_generators(states, self._device)
        for name, own in own_generators(self._source).items():
            own.set_state(states[name].to(own.device))

    @property
    def num_data(self) -> int | None:
        """The number of data in one epoch, or ``None`` if it is not known.

        It is not without a length of the data set, nor for a loader with ``batch_size=None``, whose items are batches.
        """
        if isinstance(self._source, DataLoader) and self._source.batch_sampler is None:
            return None
        data: Any = self._source.dataset if isinstance(self._source, DataLoader) else self._source
        try:
            return len(data)
        except TypeError:
            return None

    @property
    def last_size(self) -> int | None:
        """The size of the last batch of an epoch, or ``None`` where it cannot be known."""
        size, drops = self.batch_size, isinstance(self._source, DataLoader) and self._source.drop_last
        return size if self.num_data is None or size is None or drops else self.num_data % size or size

    def in_order(self) -> Batches:
        """Return the same batches unshuffled; those of a ``DataLoader`` keep the loader's order."""
        return Batches(self._source, self._batch_size, self._device, self._dtype, shuffle=False, entries=self._entries)

    def shared(self, ranks: Ranks) -> Batches:
        """Return one rank's shares of the same batches.

        Raises
        ------
        ValueError
            If a batch has fewer data than there are ranks.
        """
        if ranks.size == 1:
            return self
        if self.batch_size is not None and self.batch_size < ranks.size:
            raise ValueError(
                f"batch_size: found {self.batch_size}, expected at least {ranks.size}, a datum for each rank"
            )
        return Batches(self._source, self._batch_size, self._device, self._dtype, self._shuffle, self._entries, ranks)

    def first(self) -> Any:
        """Return the first batch, ``None`` if there is none, and restore the generators; the next pass has it too."""
        if self._begun is not None:
            return self._begun.x
        before = self.generators()
        if not isinstance(self._source, DataLoader):
            x = next(iter(self), None)
        else:
            batches = passing(self._loader)
            found = first_of(batches, self._entries.name)
            x, place = None, 0
            if found:
                x, share = share_next(self._entries.batch_of(found[0]), self._loader, self.ranks, is_kept=True)
                x, place = self._on_device(x), share.rows.start
            self._begun = Begun(before, self.generators(), chain(found, batches), x, place)
        self.set_generators(before)
        return x

    @property
    def first_place(self) -> int:
        """The place, in the epoch, of the first datum of :meth:`first` of a loader."""
        return 0 if self._begun is None else self._begun.place

    def start_workers(self) -> None:
        """Start the workers of a loader that keeps them, whose seed it draws once; restore the generators' states."""
        if isinstance(self._source, DataLoader) and self._loader.persistent_workers and self._loader._iterator is None:
            before = self.generators()
            iter(self._loader)
            self.set_generators(before)

    def check_first_pass(self, check: Callable[[Batch, int], None]) -> None:
        """Call ``check(x, start)`` on each batch until a pass ends; ``start`` is the index of its first datum."""
        self._check = check

    def skip(self, num_batches: int) -> int:
        """Let the next pass begin after some batches, if they need not be read, and return how many it leaves out."""
        if num_skipped := skip(self._source, num_batches):
            self._begun = None
        return num_skipped

    def __len__(self) -> int:
        if isinstance(self._source, DataLoader):
            return len(self._source)
        return -(-len(self._source) // self._batch_size)

    def __iter__(self) -> Iterator[Any]:  # of tensors, where the programs take one argument
        return (self.read(pick) for pick in self.picks() if not isinstance(pick, Part) or pick.num_data)

    def picks(self, drawn: Callable[[], None] | None = None) -> Iterator[Pick]:
        """Yield the rows of each batch of resident data, or each batch of the loader, for :meth:`read`.

        ``drawn`` is called when the order of the pass is drawn; a loader whose sampler draws it has read nothing then.
        """
        tell = once(drawn)
        if not isinstance(self._source, DataLoader):
            for rows in self._source.rows(self._batch_size, self._shuffle):
                tell()
                yield rows_of(rows, self._batch_size, len(self._source), self.ranks)
            return
        start = begins_at(self._source)
        if isinstance(sampler := self._loader.batch_sampler, ShareSampler):
            sampler.drawn = tell
        for batch in in_step(self._loaded(), self._source, self._entries.name, self.ranks):
            tell()
            x, share = share_next(self._entries.batch_of(batch), self._loader, self.ranks)
            if self._check is not None:
                self._check(x := self._on_device(x), start + share.rows.start)
            yield x if self.ranks.size == 1 else Part(x, share.num_data)
            start += share.whole
        self._check = None

    def _loaded(self) -> Iterator[Any]:
        """Return an iterator over the loader: the pass that :meth:`first` began, or a new one with a new order."""
        assert isinstance(self._source, DataLoader)
        begun, self._begun = self._begun, None
        is_own = isinstance(self._loader.batch_sampler, ShareSampler) and not self._loader.num_workers
        if begun is not None and not is_own:  # else ranks have read their first batches on the same draws
            now = self.generators()
            if all(torch.equal(now[name], state) for name, state in begun.before.items()):
                self.set_generators(begun.after)
                return begun.batches
            if is_read_once(self._source.dataset):
                return begun.batches
            self.set_generators(now)
        return passing(self._loader)

    def read(self, pick: Pick) -> Any:
        """Return a batch on the device, from the rows or the loader's batch that :meth:`picks` yielded."""
        if isinstance(pick, Part):
            pick = pick.rows
        if not isinstance(self._source, DataLoader):
            assert not isinstance(pick, Arguments)
            return self._source.read(pick, self._dtype)
        assert not isinstance(pick, slice)
        return self._on_device(pick)

    def _on_device(self, x: Batch) -> Batch:
        for each in filter(Tensor.is_floating_point, x.tensors) if isinstance(x, Arguments) else [x]:
            check_exact(each, self._dtype, "data")
        if isinstance(x, Arguments):
            return x.to(self._device, self._dtype)
        return x.to(self._device, non_blocking=True).to(self._dtype)  # in this order bytes travel as bytes
