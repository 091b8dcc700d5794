r"""Triton kernels for a linear layer of a small batch, forward and backward, one launch each.

.. math:: y = \tanh(x W^\top + b), \qquad
          \partial x = (g W) \odot (1 - x^2), \quad \partial W = g^\top x, \quad \partial b = \textstyle\sum_i g_i

where x is the output of a tanh layer itself; otherwise that factor is left out. The last three read the same g, and
none of them fills a GPU, so that they are computed by different programs of one launch. Each tile of a result is summed
by one program in a fixed order: the same numbers give the same bits.

In a product as small as these, most of the time is waiting for one step along k after the other. A tile of four numbers
``(m, n, k, s)`` therefore takes s pieces of k at a time, whose sums stay apart until the end. ``"tf32x3"`` multiplies
float32 as three products of its upper and lower bits on tensor cores; relative errors are 3e-7, those of cuBLAS in
float32 2e-7. ``"tf32"`` takes the upper bits alone, with 8e-4.

Sizes are constants of a kernel: that is how loads become wide ones, and a new size takes a new compilation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    from triton import jit
    from triton import language as tl
except ImportError:  # no Triton for this platform: what is below can be read, and is never called

    def jit(function: Any) -> Any:
        """Return the function."""
        return function


__all__ = ["Launch", "backward", "forward"]

# the fastest for all of the layers 784-400-50 together, B = 100: at most 1.2 of the best for each
_LONG = {"tf32x3": ((16, 32, 32, 4), 4, 3), "tf32": ((32, 32, 64, 1), 4, 4)}  # tile, warps, stages
_SHORT = {"tf32x3": ((16, 32, 128, 1), 2, 1), "tf32": ((32, 32, 128, 1), 4, 1)}
_SHORTEST_LONG = 300
_BACKWARD = {
    "tf32x3": ((16, 32, 32, 4), (32, 32, 32, 4), 4, 3),
    "tf32": ((32, 32, 64, 1), (32, 32, 128, 1), 4, 3),
}  # tiles of dx and of dw, warps, stages


class Launch(NamedTuple):
    """A kernel with all that it is given."""

    kernel: Any
    num_programs: int
    args: tuple[Any, ...]
    options: dict[str, int]

    def run(self) -> None:
        """Compute the outputs, on the current stream of their device."""
        with torch.cuda.device_of(self.args[0]):
            self.kernel[(self.num_programs,)](*self.args, **self.options)

    def compile(self) -> None:
        """Compile without a run; what fails here fails again when it runs, and is told then."""
        with contextlib.suppress(Exception), torch.cuda.device_of(self.args[0]):
            self.kernel.warmup(*self.args, grid=(self.num_programs,), **self.options)


def forward(x: Tensor, weight: Tensor, bias: Tensor, tanh: bool, precision: str) -> tuple[Tensor, Launch]:
    """Return the output of a layer and what computes it."""
    out = x.new_empty(x.shape[0], weight.shape[0])
    tile, num_warps, num_stages = (_LONG if x.shape[1] >= _SHORTEST_LONG else _SHORT)[precision]
    args = (x, weight, bias.contiguous(), out, _sizes(x, weight.t()), (*tile, precision), tanh)
    return out, Launch(_forward, _num_tiles(out, tile), args, {"num_warps": num_warps, "num_stages": num_stages})


def backward(
    g: Tensor, weight: Tensor | None, x: Tensor, y: Tensor | None, precision: str
) -> tuple[tuple[Tensor, Tensor, Tensor], Launch]:
    """Return the gradients of a layer's input, weight and bias, and what computes them.

    Without a weight the first is left out, and empty. ``y`` is the input where that is the output of a tanh.
    """
    tile_x, tile_w, num_warps, num_stages = _BACKWARD[precision]
    dx = g.new_empty(0) if weight is None else g.new_empty(x.shape)
    dw, db = g.new_empty(g.shape[1], x.shape[1]), g.new_empty(g.shape[1])
    of_x, num_x = (None, 0) if weight is None else (_sizes(g, weight), _num_tiles(dx, tile_x))
    num_programs = num_x + _num_tiles(dw, tile_w) + -(-len(db) // 32)
    tensors = (g, g if weight is None else weight, x, g if y is None else y.contiguous(), dx, dw, db)
    tiles = ((*tile_x, precision), (*tile_w, precision))
    args = (*tensors, of_x, _sizes(g.t(), x), *tiles, y is not None)
    return (dx, dw, db), Launch(_backward, num_programs, args, {"num_warps": num_warps, "num_stages": num_stages})


def _sizes(a: Tensor, b: Tensor) -> tuple[int, ...]:
    """Return M, N and K of a product a b and the strides of a and b."""
    return (a.shape[0], b.shape[1], a.shape[1], *a.stride(), *b.stride())


def _num_tiles(out: Tensor, tile: Sequence[int]) -> int:
    return -(-out.shape[0] // tile[0]) * -(-out.shape[1] // tile[1])


@jit
def _tile_of_product(a, b, m, n, sizes: tl.constexpr, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return rows m and columns n of a @ b."""
    num_m: tl.constexpr = sizes[0]
    num_n: tl.constexpr = sizes[1]
    num_k: tl.constexpr = sizes[2]
    size_m: tl.constexpr = tile[0]
    size_n: tl.constexpr = tile[1]
    size_k: tl.constexpr = tile[2]
    num_pieces: tl.constexpr = tile[3]
    precision: tl.constexpr = tile[4]
    k = tl.arange(0, size_k)
    if num_pieces == 1:
        total = tl.zeros((size_m, size_n), tl.float32)
        for start in range(0, num_k, size_k):
            a_mask = (m[:, None] < num_m) & (start + k[None, :] < num_k)
            b_mask = (start + k[:, None] < num_k) & (n[None, :] < num_n)
            a_part = tl.load(a + m[:, None] * sizes[3] + (start + k[None, :]) * sizes[4], mask=a_mask, other=0.0)
            b_part = tl.load(b + (start + k[:, None]) * sizes[5] + n[None, :] * sizes[6], mask=b_mask, other=0.0)
            total = tl.dot(a_part, b_part, total, input_precision=precision)
        return total
    else:
        piece = tl.arange(0, num_pieces)[:, None, None] * size_k
        totals = tl.zeros((num_pieces, size_m, size_n), tl.float32)
        for start in range(0, num_k, num_pieces * size_k):
            a_k = start + piece + k[None, None, :]
            b_k = start + piece + k[None, :, None]
            a_mask = (m[None, :, None] < num_m) & (a_k < num_k)
            b_mask = (b_k < num_k) & (n[None, None, :] < num_n)
            a_part = tl.load(a + m[None, :, None] * sizes[3] + a_k * sizes[4], mask=a_mask, other=0.0)
            b_part = tl.load(b + b_k * sizes[5] + n[None, None, :] * sizes[6], mask=b_mask, other=0.0)
            totals = tl.dot(a_part, b_part, totals, input_precision=precision)
        return tl.sum(totals, axis=0)


@jit
def _tanh(x):  # type: ignore[no-untyped-def]
    """Return tanh(x), near 0 by its series, where the quotient would cancel."""
    e = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - e) / (1.0 + e)
    series = x * (1.0 - x * x * (1.0 / 3.0 - x * x * (2.0 / 15.0)))
    return tl.where(tl.abs(x) < 0.04, series, tl.where(x < 0, -size, size))


@jit
def _forward(  # type: ignore[no-untyped-def]
    x, weight, bias, out, sizes: tl.constexpr, tile: tl.constexpr, tanh: tl.constexpr
):
    """Write a tile of the layer's output."""
    num_m: tl.constexpr = sizes[0]
    num_n: tl.constexpr = sizes[1]
    across: tl.constexpr = (num_n + tile[1] - 1) // tile[1]
    program = tl.program_id(0)
    m = program // across * tile[0] + tl.arange(0, tile[0])
    n = program % across * tile[1] + tl.arange(0, tile[1])
    y = _tile_of_product(x, weight, m, n, sizes, tile)
    y += tl.load(bias + n, mask=n < num_n, other=0.0)[None, :]
    if tanh:
        y = _tanh(y)
    tl.store(out + m[:, None] * num_n + n[None, :], y, mask=(m[:, None] < num_m) & (n[None, :] < num_n))


@jit
def _backward(  # type: ignore[no-untyped-def]
    g, weight, x, y, dx, dw, db, of_x: tl.constexpr, of_w: tl.constexpr, tile_x: tl.constexpr, tile_w: tl.constexpr,
    tanh: tl.constexpr,
):  # fmt: skip
    """Write a tile of the gradient of the input or of the weight, or some of the bias's."""
    num_out: tl.constexpr = of_w[0]
    num_in: tl.constexpr = of_w[1]
    num_data: tl.constexpr = of_w[2]
    across_x: tl.constexpr = (num_in + tile_x[1] - 1) // tile_x[1]
    across_w: tl.constexpr = (num_in + tile_w[1] - 1) // tile_w[1]
    num_x: tl.constexpr = 0 if of_x is None else (num_data + tile_x[0] - 1) // tile_x[0] * across_x
    num_w: tl.constexpr = (num_out + tile_w[0] - 1) // tile_w[0] * across_w
    program = tl.program_id(0)
    if program < num_x:
        if of_x is not None:
            m = program // across_x * tile_x[0] + tl.arange(0, tile_x[0])
            n = program % across_x * tile_x[1] + tl.arange(0, tile_x[1])
            inside = (m[:, None] < num_data) & (n[None, :] < num_in)
            grad = _tile_of_product(g, weight, m, n, of_x, tile_x)
            if tanh:
                value = tl.load(y + m[:, None] * num_in + n[None, :], mask=inside, other=0.0)
                grad = grad * (1.0 - value * value)
            tl.store(dx + m[:, None] * num_in + n[None, :], grad, mask=inside)
    elif program < num_x + num_w:
        m = (program - num_x) // across_w * tile_w[0] + tl.arange(0, tile_w[0])
        n = (program - num_x) % across_w * tile_w[1] + tl.arange(0, tile_w[1])
        grad = _tile_of_product(g, x, m, n, of_w, tile_w)
        inside = (m[:, None] < num_out) & (n[None, :] < num_in)
        tl.store(dw + m[:, None] * num_in + n[None, :], grad, mask=inside)
    else:
        o = (program - num_x - num_w) * 32 + tl.arange(0, 32)
        total = tl.zeros((32,), tl.float32)
        for start in range(0, num_data, 128):
            i = start + tl.arange(0, 128)
            inside = (i[:, None] < num_data) & (o[None, :] < num_out)
            total += tl.sum(tl.load(g + i[:, None] * of_w[4] + o[None, :] * of_w[3], mask=inside, other=0.0), axis=0)
        tl.store(db + o, total, mask=o < num_out)
