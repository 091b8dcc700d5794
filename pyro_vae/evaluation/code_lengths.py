r"""The length of data under a lossless compression, the universal model that a VAE's log p(x) is compared with.

A code of L(x) bits stands for a distribution :math:`2^{-L(x)}` over all data of a shape. Deflate, which PNG and zlib
share, knows of repetitions and of little else, so simple images have short codes. As in PNG, bytes are coded as they
are, or as differences from the left or the upper neighbour, whichever is shortest:

.. math:: L(x) = 8 \min_f \bigl|\mathrm{deflate}(f(x))\bigr| \text{ bits} .
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["code_lengths"]


def code_lengths(x: Tensor, name: str = "x") -> Tensor:
    """Return L for data ``(N, *data_shape)`` of 256 levels, as ``(N,)`` in nats.

    Levels are whole numbers up to 255. Where all data lie between 0 and 1, they are multiplied by 255 and rounded.

    Raises
    ------
    ValueError
        For other numbers.

    Examples
    --------
    >>> even, noisy = code_lengths(torch.stack([torch.zeros(28, 28), torch.rand(28, 28)]))
    >>> bool(even < 0.03 * noisy)
    True
    """
    values = x.detach().cpu().double().numpy()
    scale = 255 if values.max() <= 1 else 1  # of all data alike: one of levels 0 and 1 is as dark as it is
    lengths = [len(_deflated(_levels(datum, scale, f"{name}[{index}]"))) for index, datum in enumerate(values)]
    return torch.tensor(lengths, dtype=torch.float64) * (8 * math.log(2.0))


def _levels(datum: np.ndarray, scale: int, name: str) -> np.ndarray:
    levels = datum if scale == 1 else np.rint(scale * datum)
    if not (datum.min() >= 0 and levels.max() <= 255 and np.array_equal(levels, np.rint(levels))):
        raise ValueError(
            f"{name}: found numbers from {datum.min():g} to {datum.max():g}, expected grey levels to compress: between "
            "0 and 1, or whole numbers up to 255"
        )
    return levels.astype(np.uint8)


def _deflated(levels: np.ndarray) -> bytes:
    axes = range(levels.ndim - min(levels.ndim, 2), levels.ndim)
    differences = (np.diff(levels, axis=axis, prepend=np.uint8(0)) for axis in axes)  # modulo 256, so nothing is lost
    return min((_deflate(each.tobytes()) for each in (levels, *differences)), key=len)


def _deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)  # without a header
    return compressor.compress(data) + compressor.flush()
