"""How exactly float32 matrices are multiplied; all else, densities and sums among it, stays in float32 or better.

On a CPU, torch multiplies float32 matrices by one of two libraries. At ``"highest"`` it is the older one, at
``"medium"`` oneDNN, which many processors run faster and which may round to bfloat16 where they have units for that.
Whether it does on this processor is found out once, by multiplying two matrices; where it does not, full precision
takes oneDNN too.
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

_FULL = 2e-6  # relative error of products in float32; three pieces of bfloat16 give 1e-5, one 2e-3


@checked
@contextmanager
def precise(precision: Precision, device: AnyDevice = "cpu") -> Iterator[None]:
    """Multiply float32 matrices on ``device`` with some precision for a block.

    Parameters
    ----------
    precision
        ``"highest"`` for float32, by the faster of two ways on a CPU. ``"high"`` and ``"medium"`` are torch's own: TF32
        or three pieces of bfloat16, and bfloat16, where the hardware is faster at these. ``"bf16"`` rounds the factors
        of products and convolutions to bfloat16, by torch's autocast, on any hardware.
    device
        Where the matrices are.

    Raises
    ------
    ValueError
        For any other precision.

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
    """Whether ``"medium"`` multiplies in full float32 on this CPU."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with _matmul_precision("medium"):
        error = ((a @ b).double() - exact).norm() / exact.norm()
    return error.item() < _FULL


class _Bfloat16Products(TorchFunctionMode):
    """Autocast products and convolutions, each by itself, and return them in the type that they would have had."""

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
