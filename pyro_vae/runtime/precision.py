"""The precision of float32 matrix products; densities, sums and all else stay in float32 or better.

On a CPU, torch multiplies float32 matrices by one of two libraries: an older one at ``"highest"``, oneDNN at
``"medium"``. oneDNN is faster on many processors, but may round to bfloat16 where they have units for it. A product of
two matrices shows if it rounds on this processor. If it does not, full precision uses oneDNN too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyro_vae.runtime.arguments import checked
from pyro_vae.runtime.objects import Devices

__all__ = ["Precision", "precise"]

Precision = Literal["highest", "high", "medium", "bf16"]
AnyDevice = Annotated[torch.device | str, Devices("a device that holds values, such as 'cpu'", present=False)]

_FULL = 2e-6  # products in float32 have a smaller relative error; three pieces of bfloat16 give 1e-5, one gives 2e-3


@checked
@contextmanager
def precise(precision: Precision, device: AnyDevice = "cpu") -> Iterator[None]:
    """Set the precision of float32 matrix products on ``device`` for a block.

    Parameters
    ----------
    precision
        ``"highest"`` is float32, by the faster of the two libraries on a CPU. ``"high"`` (TF32, or three pieces of
        bfloat16) and ``"medium"`` (bfloat16) are torch's own and round only where that is faster. ``"bf16"`` rounds the
        factors of products and convolutions to bfloat16 on any hardware, by torch's autocast.
    device
        The device of the matrices.

    Raises
    ------
    ValueError
        For an unknown precision.

    Examples
    --------
    >>> a = torch.full((2, 2), 1.001)
    >>> with precise("bf16"):
    ...     (a @ a).dtype, (a @ a)[0, 0].item()
    (torch.float32, 2.0)
    """
    device = torch.device(device)
    if precision == "bf16":
        with _Bfloat16Products(device.type):
            yield
        return
    exact = precision == "highest" and device.type == "cpu" and medium_is_exact()
    with _matmul_precision("medium" if exact else precision):
        yield


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def medium_is_exact() -> bool:
    """Return true if ``"medium"`` multiplies in full float32 on this CPU."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with _matmul_precision("medium"):
        error = ((a @ b).double() - exact).norm() / exact.norm()
    return error.item() < _FULL


class _Bfloat16Products(TorchFunctionMode):
    """Run each product and convolution under autocast and return its result in float32."""

    products = frozenset(
        (
            *(getattr(torch, name) for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum")),
            *(getattr(Tensor, name) for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "__matmul__")),
            *(getattr(functional, name) for name in ("linear", "bilinear", "scaled_dot_product_attention")),
            *(getattr(torch, name) for name in ("conv1d", "conv2d", "conv3d")),
            *(getattr(torch, f"conv_transpose{n}d") for n in (1, 2, 3)),
        )
    )

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.products:
            return func(*args, **(kwargs or {}))
        with torch.autocast(self.device_type, dtype=torch.bfloat16):
            result = func(*args, **(kwargs or {}))
        return result.float() if result.dtype == torch.bfloat16 else result
