r"""Data on one device, stored as the bytes they came in, and batches of them.

A model of 28 x 28 images takes a training step in about a millisecond. A loader that fetches, converts and stacks a
hundred images one by one takes longer. So a :class:`Split` lies on the device as a whole, and a batch is one gather,
one division and, for dynamically binarised images, one draw:

.. math:: x = \mathbb{1}[u < g], \qquad u \sim \mathrm{Uniform}(0, 1), \qquad g = \text{value} / \text{levels} .

Each use of an image is a new Bernoulli draw from its grey levels :math:`g`, which keeps a model from memorising the
training bits (Salakhutdinov & Murray, `On the Quantitative Analysis of Deep Belief Networks
<https://doi.org/10.1145/1390156.1390266>`_, 2008; Burda et al., `Importance Weighted Autoencoders
<https://arxiv.org/abs/1509.00519>`_, 2015).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.data.dequantisation import dequantize as dequantized
from pyro_vae.runtime.arguments import PositiveInteger, checked
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.objects import Arrays, Devices, Instances, OrNone

__all__ = ["Binarize", "Split", "check_probabilities", "cut_rows"]

Binarize: TypeAlias = Literal["dynamic", "static", "threshold"]


class Split(Dataset[Tensor]):
    r"""N data on one device, read as floating point tensors; a map-style ``Dataset`` that a ``DataLoader`` accepts.

    Parameters
    ----------
    values
        The stored values, ``(N, *data_shape)``, which are not copied.
    levels
        The stored value that stands for 1: 255 for bytes, 16 for scikit-learn's digits, 1 for values that are taken as
        they are.
    binarize
        ``"dynamic"`` draws every pixel anew at each use, from the device's global generator. ``"static"`` (drawn once)
        and ``"threshold"`` tell how the values became bits. ``None`` takes the values as they are.
    labels
        The labels ``(N,)`` or ``None``; indexing never returns them.
    dequantize
        Add uniform noise at each use and divide by ``levels + 1``, see :mod:`pyro_vae.data.dequantisation`.
    num_levels
        L, the number of levels from which the values were dequantised, once; 1 for others.

    Raises
    ------
    ValueError
        For an unknown ``binarize``, if there are not as many labels as values, or for ``dequantize`` with values that
        are binarised or not whole grey levels.

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
        num_levels: PositiveInteger = 1,
    ) -> None:
        if binarize is not None and binarize not in get_args(Binarize):
            raise ValueError(f"binarize: found {binarize!r}, expected one of {get_args(Binarize)} or None")
        if labels is not None and len(labels) != len(values):
            raise ValueError(f"labels: found {len(labels)} labels for {len(values)} data, expected one a datum")
        if dequantize and (binarize is not None or levels == 1 or values.is_floating_point()):
            found = f"levels={levels}, binarize={binarize!r} and {values.dtype}"
            raise ValueError(f"dequantize: found {found}, expected whole grey levels that are not binarised")
        self.values = values
        self.levels = levels
        self.binarize = binarize
        self.labels = labels
        self.dequantize = dequantize
        self.num_levels = levels + 1 if dequantize else num_levels

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data, ``(N, *data_shape)``."""
        return tuple(self.values.shape)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.shape[1:]

    @property
    def device(self) -> torch.device:
        """The device of the values and of the batches."""
        return self.values.device

    @checked
    def to(self, device: Annotated[torch.device | str, Devices("a device that there is here", meta=True)]) -> Split:
        """Return a copy on ``device``, which shares no memory with this split."""
        labels = None if self.labels is None else self.labels.to(device, copy=True)
        values = self.values.to(device, copy=True)
        return Split(values, levels=self.levels, binarize=self.binarize, labels=labels, dequantize=self.dequantize,
                     num_levels=self.num_levels)  # fmt: skip

    @checked
    def batches(
        self,
        batch_size: Annotated[int, Integers("a positive integer", -(2**31))],
        shuffle: bool = True,
        drop_last: bool = False,
        *,
        dtype: Annotated[torch.dtype, "a dtype of torch"] = torch.float32,
    ) -> Iterator[Tensor]:
        """Yield all data once, in batches ``(batch_size, *data_shape)``; the last one may be smaller.

        The order is drawn from torch's global CPU generator when the first batch is asked for, so that a seed gives the
        same order on every device.

        Raises
        ------
        ValueError
            Unless ``batch_size`` is 1 or more.
        """
        check_batch_size(batch_size)
        return (self.read(rows, dtype) for rows in self.rows(batch_size, shuffle, drop_last))

    def rows(self, batch_size: int, shuffle: bool, drop_last: bool = False) -> Iterator[Tensor | slice]:
        """Yield the rows of each batch of :meth:`batches`: ``(batch_size,)`` if they are shuffled, else a slice."""
        return cut_rows(len(self), self.device, batch_size, shuffle, drop_last)

    def read(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """Return the batch of some rows, and draw its noise."""
        # index_select is several times as fast as values[rows] on a CPU
        chosen = self.values[rows] if isinstance(rows, slice) else self.values.index_select(0, rows)
        return self._read(chosen, dtype)

    def mean(self) -> Tensor:
        """Return the mean of the data or of their grey levels, ``(*data_shape)`` in float32."""
        return (self.values.sum(0, dtype=torch.float64) / (len(self) * self.levels)).float()

    def pixel_entropy(self) -> float:
        r"""Return the mean entropy in nats of the bits of an image given its grey levels.

        .. math:: \frac{1}{N} \sum_{n,d} h(g_{nd}), \qquad h(g) = -g \log g - (1 - g) \log(1 - g)

        The bits are independent given the grey levels :math:`g`. No model can predict them, so the negative
        log-likelihood of any model of dynamically binarised images is at least as large. It is 45.53 for the test
        images of MNIST.

        Raises
        ------
        ValueError
            If the values are binarised already, or lie outside [0, 1].
        """
        bits = self.values.dtype == torch.uint8 and self.levels == 1
        if bits or self.binarize in ("static", "threshold"):
            raise ValueError(f"pixel_entropy: found {self!r}, expected grey levels: load with binarize=None")
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
            raise TypeError(f"index: found the tuple {index!r}, expected an index of the first dimension alone")
        return self._read(self.values[index], torch.float32)

    def _read(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        # At least 32 bits, since bfloat16 would round the probabilities; a copy, so that a batch may be written to.
        x = values.to(torch.promote_types(dtype, torch.float32), copy=True)
        if self.dequantize:
            return dequantized(x, self.levels + 1, torch.rand_like(x)).to(dtype)
        if self.levels != 1:
            x /= self.levels
        if self.binarize == "dynamic":
            return torch.rand_like(x).lt_(x).to(dtype)  # takes a fourth of the time of torch.bernoulli on a CPU
        return x.to(dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("copy: found False, expected True or None: a Split stores its values in another form")
        return self[:].cpu().numpy().astype(dtype or np.float32, copy=False)

    def __repr__(self) -> str:
        grey = "values as given" if self.levels == 1 else f"grey levels 0..{self.levels}"
        bits = {"dynamic": f"{grey} binarised at each use", "static": "bits drawn once", "threshold": "thresholded"}
        if self.num_levels > 1 and not self.dequantize:
            grey = f"grey levels 0..{self.num_levels - 1} dequantised once"
        kind = f"{grey} dequantised at each use" if self.dequantize else bits.get(self.binarize or "", grey)
        return f"Split({len(self)} x {self.data_shape}, {kind}, on {self.device})"


def cut_rows(
    num_data: int, device: torch.device, batch_size: int, shuffle: bool, drop_last: bool = False
) -> Iterator[Tensor | slice]:
    """Yield the rows of each batch of ``num_data`` data on a device: ``(batch_size,)`` if shuffled, else a slice."""
    order = torch.randperm(num_data).to(device) if shuffle else None
    stop = num_data - num_data % batch_size if drop_last else num_data
    for start in range(0, stop, batch_size):
        rows = slice(start, start + batch_size)
        yield rows if order is None else order[rows]


def check_probabilities(split: Split, purpose: str) -> None:
    """Raise ``ValueError`` unless all values lie in [0, 1]; ``purpose`` names the argument or method that needs it."""
    low, high = (float(bound) / split.levels for bound in torch.aminmax(split.values))
    if low < 0 or high > 1:
        raise ValueError(f"{purpose}: found values from {low:g} to {high:g}, expected values in [0, 1]")


def check_batch_size(batch_size: int) -> None:
    """Raise ``ValueError`` for a batch size below 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size: found {batch_size}, expected 1 or more")
