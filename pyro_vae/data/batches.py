r"""Data that stay where they are used, and the batches drawn from them.

A model of 28 x 28 images takes a step in about a millisecond, and a loader that fetches, converts and stacks a hundred
images one by one takes longer than that. So a :class:`Split` lies on the device whole, as the bytes it came in, and a
batch is one gather, one division and, for dynamically binarised images, one draw:

.. math:: x = \mathbb{1}[u < g], \qquad u \sim \mathrm{Uniform}(0, 1), \qquad g = \text{value} / \text{levels} .

Each use of an image is then a new Bernoulli draw from its grey levels :math:`g`, which keeps a model from learning the
training bits by heart (Salakhutdinov & Murray, `On the Quantitative Analysis of Deep Belief Networks
<https://doi.org/10.1145/1390156.1390266>`_, 2008; Burda et al., `Importance Weighted Autoencoders
<https://arxiv.org/abs/1509.00519>`_, 2015).

:func:`as_batches` makes one kind of iterable from every kind of data that training accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyro_vae.data.arrays import check_array, check_exact, check_whole, kind_of
from pyro_vae.data.dequantisation import dequantize as dequantized
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.objects import Arrays, Devices, Instances, OrNone
from pyro_vae.runtime.state import generators, set_generators

__all__ = ["Batches", "Binarize", "Split", "as_batches", "check_probabilities"]

Binarize: TypeAlias = Literal["dynamic", "static", "threshold"]


class Split(Dataset[Tensor]):
    r"""N data on one device, read as floating point tensors; a map-style ``Dataset``, so a ``DataLoader`` takes it too.

    Parameters
    ----------
    values
        ``(N, *data_shape)``, as stored. They are not copied.
    levels
        The stored value that means 1: 255 for bytes, 16 for scikit-learn's digits, 1 for values to be taken as
        they are.
    binarize
        ``"dynamic"`` draws every pixel anew at each use, from the device's global generator. ``"static"``
        (drawn once) and ``"threshold"`` say how the values became the bits they are; ``None``: they are as given.
    labels
        ``(N,)``, carried along and never returned by indexing, or ``None``.
    dequantize
        Add uniform noise at each use and divide by ``levels + 1``, see :mod:`pyro_vae.data.dequantisation`.

    Raises
    ------
    ValueError
        For an unknown ``binarize``, when there are not as many labels as values, or for ``dequantize`` of values that
        are binarised or no whole grey levels.

    Examples
    --------
    >>> split = Split(torch.tensor([[0, 51, 255], [255, 0, 0]], dtype=torch.uint8), levels=255)
    >>> split
    Split(2 x (3,), grey levels 0..255, on cpu)
    >>> split[0]
    tensor([0.0000, 0.2000, 1.0000])
    >>> [tuple(x.shape) for x in split.batches(batch_size=2)]
    [(2, 3)]
    """

    @checked
    def __init__(
        self,
        values: Annotated[Tensor, Arrays("a tensor (N, *data_shape) of real numbers", tensors_alone=True, meta=True)],
        *,
        levels: PositiveInteger = 1,
        binarize: Annotated[Binarize | None, OrNone("", Instances("a mode or None", str, by_value=True))] = None,
        labels: Annotated[Tensor, Arrays("a tensor (N,) of labels", tensors_alone=True, meta=True)] | None = None,
        dequantize: bool = False,
    ) -> None:
        if binarize is not None and binarize not in get_args(Binarize):
            raise ValueError(f"binarize must be one of {get_args(Binarize)} or None, found {binarize!r}")
        if labels is not None and len(labels) != len(values):
            raise ValueError(f"labels: one a datum is needed, found {len(labels)} labels for {len(values)} data")
        if dequantize and (binarize is not None or levels == 1 or values.is_floating_point()):
            found = f"levels={levels}, binarize={binarize!r} and {values.dtype}"
            raise ValueError(f"dequantize: found {found}, expected whole grey levels that are not binarised")
        self.values = values
        self.levels = levels
        self.binarize = binarize
        self.labels = labels
        self.dequantize = dequantize

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, *data_shape)``."""
        return tuple(self.values.shape)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.shape[1:]

    @property
    def device(self) -> torch.device:
        """Where the values lie, and so where every batch is made."""
        return self.values.device

    @checked
    def to(self, device: Annotated[torch.device | str, Devices("a device that there is here", meta=True)]) -> Split:
        """Return a copy on ``device`` that shares no memory with this split."""
        labels = None if self.labels is None else self.labels.to(device, copy=True)
        values = self.values.to(device, copy=True)
        return Split(values, levels=self.levels, binarize=self.binarize, labels=labels, dequantize=self.dequantize)

    @checked
    def batches(
        self,
        batch_size: Annotated[int, Integers("a positive integer", -(2**31))],
        shuffle: bool = True,
        drop_last: bool = False,
        *,
        dtype: Annotated[torch.dtype, "a dtype of torch"] = torch.float32,
    ) -> Iterator[Tensor]:
        """Go through the data once, ``(batch_size, *data_shape)`` at a time; the last batch may be smaller.

        The order is drawn from torch's global CPU generator when the first batch is asked for, so one seed gives one
        order on every device.

        Raises
        ------
        ValueError
            Unless ``batch_size`` is 1 or more.
        """
        _check_batch_size(batch_size)
        return (self.read(rows, dtype) for rows in self.rows(batch_size, shuffle, drop_last))

    def rows(self, batch_size: int, shuffle: bool, drop_last: bool = False) -> Iterator[Tensor | slice]:
        """The rows of each batch, ``(batch_size,)`` where they are shuffled; the order is that of :meth:`batches`."""
        order = torch.randperm(len(self)).to(self.device) if shuffle else None
        stop = len(self) - len(self) % batch_size if drop_last else len(self)
        for start in range(0, stop, batch_size):
            rows = slice(start, start + batch_size)
            yield rows if order is None else order[rows]

    def read(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """The batch of these rows; it is here that noise is drawn."""
        # index_select is several times as fast as values[rows] on a CPU
        chosen = self.values[rows] if isinstance(rows, slice) else self.values.index_select(0, rows)
        return self._read(chosen, dtype)

    def mean(self) -> Tensor:
        """Return the mean datum ``(*data_shape)``, of the grey levels where they are known; float32."""
        return (self.values.sum(0, dtype=torch.float64) / (len(self) * self.levels)).float()

    def pixel_entropy(self) -> float:
        r"""Return the entropy in nats that binarising adds to a datum, which no model can predict.

        .. math:: \frac{1}{N} \sum_{n,d} h(g_{nd}), \qquad h(g) = -g \log g - (1 - g) \log(1 - g)

        The bits of an image are independent given its grey levels :math:`g`, so this is their entropy given the image,
        and the cross-entropy of any model to dynamically binarised images is at least as large: 45.53 for the test
        images of MNIST.

        Raises
        ------
        ValueError
            If the grey levels are gone (binarised already) or are no probabilities (outside [0, 1]).
        """
        bits = self.values.dtype == torch.uint8 and self.levels == 1
        if bits or self.binarize in ("static", "threshold"):
            raise ValueError(f"pixel_entropy needs grey levels, but {self!r} is binarised: load with binarize=None")
        check_probabilities(self, "pixel_entropy")
        total = 0.0
        for values in torch.split(self.values, 1_000):  # float64 copies of a whole training set would take gigabytes
            grey = values.double() / self.levels  # (1000, *data_shape)
            total += float((torch.special.entr(grey) + torch.special.entr(1 - grey)).sum())
        return total / len(self)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | slice | Tensor | npt.NDArray[Any] | list[int]) -> Tensor:
        if isinstance(index, tuple):
            raise TypeError(f"a Split is indexed by its first dimension alone, found the tuple {index!r}")
        return self._read(self.values[index], torch.float32)

    def _read(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        # At least 32 bits, as bfloat16 would round the probabilities; a copy, so that writing to a batch is harmless.
        x = values.to(torch.promote_types(dtype, torch.float32), copy=True)
        if self.dequantize:
            return dequantized(x, self.levels + 1, torch.rand_like(x)).to(dtype)
        if self.levels != 1:
            x /= self.levels
        if self.binarize == "dynamic":
            return torch.rand_like(x).lt_(x).to(dtype)  # torch.bernoulli, at a fourth of its time on a CPU
        return x.to(dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a Split cannot become an array without a copy: its values are stored in another form")
        return self[:].cpu().numpy().astype(dtype or np.float32, copy=False)

    def __repr__(self) -> str:
        grey = "values as given" if self.levels == 1 else f"grey levels 0..{self.levels}"
        bits = {"dynamic": f"{grey} binarised at each use", "static": "bits drawn once", "threshold": "thresholded"}
        kind = f"{grey} dequantised at each use" if self.dequantize else bits.get(self.binarize or "", grey)
        return f"Split({len(self)} x {self.data_shape}, {kind}, on {self.device})"


class _Begun(NamedTuple):
    """A pass through a loader whose first batch was asked for, and the generators before and after that."""

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    batches: Iterator[Any]
    x: Tensor | None


class Batches:
    """Floating point batches on one device, epoch after epoch: each ``iter()`` goes through the data once.

    ``num_data`` is the number of data, or ``None`` where it cannot be known (an iterable data set without a length);
    ``len()``, the number of batches, then raises ``TypeError``. :func:`as_batches` makes them.
    """

    def __init__(
        self, source: Split | DataLoader[Any], batch_size: int, device: torch.device, dtype: torch.dtype, shuffle: bool
    ) -> None:
        self._source = source
        self._batch_size = batch_size
        self._device = device
        self._dtype = dtype
        self._shuffle = shuffle
        self._begun: _Begun | None = None
        self._check: Callable[[Tensor, int], None] | None = None
        self._start = 0  # the place in the epoch of the batch that was picked last

    @property
    def resident(self) -> bool:
        """Whether the data lie on the device, so that going through them costs little."""
        return isinstance(self._source, Split)

    @property
    def form(self) -> tuple[Any, ...]:
        """What a batch of resident data is made of, besides its rows: compares equal while that stays."""
        split = self._source
        assert isinstance(split, Split)
        return split.values.data_ptr(), split.levels, split.binarize, split.dequantize

    def generators(self) -> dict[str, Tensor]:
        """The states of the generators that a pass draws from: torch's, and those of a loader that has its own."""
        return generators(self._device) | {name: own.get_state() for name, own in self._own_generators().items()}

    def set_generators(self, states: dict[str, Tensor]) -> None:
        """Go back to what :meth:`generators` returned."""
        set_generators(states, self._device)
        for name, own in self._own_generators().items():
            own.set_state(states[name].to(own.device))

    def _own_generators(self) -> dict[str, torch.Generator]:
        samplers: list[Any] = [self._source]
        if isinstance(self._source, DataLoader):
            samplers += [self._source.sampler, getattr(self._source.batch_sampler, "sampler", None)]
        found = [getattr(sampler, "generator", None) for sampler in samplers]
        own = dict.fromkeys(each for each in found if isinstance(each, torch.Generator))
        return {f"loader_{index}": each for index, each in enumerate(own)}

    @property
    def num_data(self) -> int | None:
        """The number of data in one epoch, or ``None`` if the data set has no length."""
        data: Any = self._source if isinstance(self._source, Split) else self._source.dataset
        try:
            return len(data)
        except TypeError:
            return None

    @property
    def last_size(self) -> int | None:
        """The size of the last batch of an epoch, or ``None`` where it cannot be known."""
        source: Any = self._source
        size = self._batch_size if isinstance(source, Split) else source.batch_size
        if self.num_data is None or size is None or self.num_data % size == 0:
            return size
        return size if isinstance(source, DataLoader) and source.drop_last else self.num_data % size

    def in_order(self) -> Batches:
        """Return the same batches unshuffled; those of a ``DataLoader`` keep the loader's order."""
        return Batches(self._source, self._batch_size, self._device, self._dtype, shuffle=False)

    def first(self) -> Tensor | None:
        """Return the first batch, or ``None`` if there is none, without taking it from the next pass.

        A data set that can be gone through only once would lose it otherwise. Generators are left as they were.
        """
        if self._begun is not None:
            return self._begun.x
        before = self.generators()
        if isinstance(self._source, Split):
            x = next(iter(self), None)
        else:
            batches = iter(self._source)
            found = list(islice(batches, 1))
            x = self._on_device(_data_of(found[0])) if found else None
            self._begun = _Begun(before, self.generators(), chain(found, batches), x)
        self.set_generators(before)
        return x

    def start_workers(self) -> None:
        """Start the workers of a loader that keeps them; generators are left as they were.

        Such a loader draws a seed for them in its first pass and in no later one.
        """
        if isinstance(self._source, DataLoader) and self._source.persistent_workers and self._source._iterator is None:
            before = self.generators()
            iter(self._source)
            self.set_generators(before)

    def check_first_pass(self, check: Callable[[Tensor, int], None]) -> None:
        """Call ``check(x, start)`` on each batch that is read until the end of a pass, ``start`` being its place."""
        self._check = check

    def __len__(self) -> int:
        if isinstance(self._source, Split):
            return -(-len(self._source) // self._batch_size)
        return len(self._source)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.read, self.picks())

    def picks(self) -> Iterator[Tensor | slice]:
        """What to :meth:`read` each batch of an epoch from: rows of resident data, or what the loader gives."""
        if isinstance(self._source, Split):
            yield from self._source.rows(self._batch_size, self._shuffle)
            return
        start = 0
        for batch in self._loaded():
            x = _data_of(batch)
            self._start = start
            yield x
            start += len(x)
        self._check = None

    def _loaded(self) -> Iterator[Any]:
        """Go through the loader: on with the pass that was begun, unless another order is to be drawn now."""
        assert isinstance(self._source, DataLoader)
        begun, self._begun = self._begun, None
        if begun is not None:
            now = self.generators()
            if all(torch.equal(now[name], state) for name, state in begun.before.items()):
                self.set_generators(begun.after)
                return begun.batches
            if isinstance(self._source.dataset, IterableDataset):  # whose order is its own
                return begun.batches
        return iter(self._source)

    def read(self, pick: Tensor | slice) -> Tensor:
        """The batch that a pick stands for, on the device."""
        if isinstance(self._source, Split):
            return self._source.read(pick, self._dtype)
        assert isinstance(pick, Tensor)
        x = self._on_device(pick)
        if self._check is not None:
            self._check(x, self._start)
        return x

    def _on_device(self, x: Tensor) -> Tensor:
        check_exact(x, self._dtype, "data")
        return x.to(self._device, non_blocking=True).to(self._dtype)  # in this order bytes travel as bytes


def _data_of(batch: Any) -> Tensor:
    """The data of what a loader gives: it, or the first of a tuple or list."""
    x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(x, Tensor):
        raise TypeError(f"a batch must be a tensor, or a tuple or list that starts with one, found {kind_of(x)}")
    check_whole(x, "data")
    return x


def as_batches(
    data: Tensor | npt.NDArray[Any] | Split | Dataset[Any] | DataLoader[Any] | Batches,
    batch_size: int,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    shuffle: bool,
    name: str = "data",
) -> Batches:
    """Make batches ``(batch_size, *data_shape)`` of ``dtype`` on ``device`` from any kind of data.

    Parameters
    ----------
    data
        A tensor, array or :class:`Split` moves to the device whole; numbers in a plain tensor or array are taken
        as they are, never scaled. Any other ``Dataset`` goes through a ``DataLoader``. A ``DataLoader`` keeps its
        own order and batch size. Of a batch that is a tuple or list, such as ``(x, label)``, the first is used.
        Batches come back as they are.
    batch_size
        Data in a batch, 1 or more; the last one may be smaller.
    device
        Where the batches are to be.
    dtype
        What they are to be made of, a floating point type.
    shuffle
        Draw a new order for each epoch; iterable data sets come in their own order always.
    name
        What error messages call the data.

    Raises
    ------
    TypeError
        For any other kind of data, or of batch.
    ValueError
        For an array or set that holds no data, NaN or infinity, or a ``batch_size`` below 1.

    Examples
    --------
    >>> batches = as_batches(torch.arange(10).reshape(5, 2), 2, device="cpu", dtype=torch.float32, shuffle=False)
    >>> len(batches), batches.num_data
    (3, 5)
    >>> next(iter(batches))
    tensor([[0., 1.],
            [2., 3.]])
    """
    if isinstance(data, Batches):
        return data
    _check_batch_size(batch_size)
    device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", to be compared below
    source: Split | DataLoader[Any]
    if isinstance(data, Split):
        source = data if data.device == device else data.to(device)
    elif isinstance(data, (Tensor, np.ndarray)):
        values = check_array(data, name).to(device)
        check_exact(values, dtype, name)
        source = Split(values.to(dtype) if values.is_floating_point() else values)
    elif isinstance(data, DataLoader):
        source = data
    elif isinstance(data, Dataset):
        if not isinstance(data, IterableDataset) and len(data) == 0:  # type: ignore[arg-type]
            raise ValueError(f"{name} must hold one datum or more, found an empty {kind_of(data)}")
        source = DataLoader(data, batch_size, shuffle=shuffle and not isinstance(data, IterableDataset))
    else:
        raise TypeError(
            f"{name} must be a tensor, a NumPy array, a Dataset, a DataLoader or one split of what load returned "
            f"(such as its .train), found {kind_of(data)}"
        )
    return Batches(source, batch_size, device, dtype, shuffle)


def check_probabilities(split: Split, purpose: str) -> None:
    """Raise ``ValueError`` unless every datum lies in [0, 1]; ``purpose`` says what needs that."""
    low, high = (float(bound) / split.levels for bound in torch.aminmax(split.values))
    if low < 0 or high > 1:
        raise ValueError(f"{purpose} needs values in [0, 1], found values from {low:g} to {high:g}")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, found {batch_size}")
