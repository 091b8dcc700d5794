r"""Pictures with their channels first, ``(N, C, H, W)``, which the networks and likelihoods of the package expect.

Many libraries keep colours last, ``(N, H, W, C)``. An array does not say which of the two it is, and a model trains on
the wrong one without a complaint. So a shape that can hardly be anything but colours last is refused: four dimensions,
of which the last is 1, 3 or 4 and the two before it are larger than that. Where the second dimension is small as well,
as in ``(N, 3, H, 3)``, channels are taken to come first.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy.typing as npt
from torch import Tensor

__all__ = ["Channels", "channels_first", "check_channels"]

Channels: TypeAlias = Literal["auto", "first", "last"]


def channels_first(x: Tensor | npt.NDArray[Any], channels: Channels) -> Tensor | npt.NDArray[Any]:
    """Return ``x`` with its channels first: moved there if they are ``"last"``, as it is if they are ``"first"``.

    Raises
    ------
    ValueError
        With ``"auto"``, if the channels seem to be last; with ``"last"``, if there are not four dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> channels_first(np.zeros((10, 32, 32, 3)), "last").shape
    (10, 3, 32, 32)
    """
    shape = tuple(x.shape)
    if channels == "last":
        if len(shape) != 4:
            raise ValueError(f"channels: found 'last' for data of shape {shape}, expected (N, H, W, C)")
        return x.permute(0, 3, 1, 2) if isinstance(x, Tensor) else x.transpose(0, 3, 1, 2)
    if channels == "auto":
        check_channels(x, "or channels='last'; channels='first' takes the data as they are")
    return x


def check_channels(x: Tensor | npt.NDArray[Any], others: str, name: str = "data") -> None:
    """Raise ``ValueError`` if the channels of an array seem to be last; ``others`` is what else one can do."""
    shape = tuple(x.shape)
    if len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1], shape[2]) > 4:
        move = "x.permute(0, 3, 1, 2)" if isinstance(x, Tensor) else "x.transpose(0, 3, 1, 2)"
        raise ValueError(
            f"{name}: found shape {shape}, which looks like pictures (N, H, W, C) with their channels last, expected "
            f"channels first: give {move}, {others}"
        )
