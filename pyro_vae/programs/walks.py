r"""Walks through the latent space of a program: from one datum to another, and along single units.

Both start from posterior means m(x), change a layer, and decode the means again. The mean of the data on the way from
x to y is

.. math:: \mathbb{E}[x \mid z_s], \qquad z_s = (1 - s)\, m(x) + s\, m(y), \quad 0 \le s \le 1 .

Layers above the changed one stay at their posterior means, or move in step with it; those below are at their means
under the model. So a picture shows what the layer decides, and no noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.inference.handlers import AtMeans
from pyro_vae.inference.isolation import isolated
from pyro_vae.programs.program import Program
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.objects import Arrays, Instances
from pyro_vae.runtime.state import evaluating

__all__ = ["Traversal", "interpolate", "traverse"]

_Program = Annotated[Program, Instances("a program, such as a VAE", Program)]
_Numbers = Annotated[Any, Arrays("a list, a tensor or an array of numbers")]


class Traversal(NamedTuple):
    """What single units do to a datum.

    ``images``: the mean of the data, ``(U, V, *data_shape)``, for U units at V values. ``units``: the units ``(U,)``,
    counted from 0. ``values``: their values ``(V,)``. ``latent``: the name of the layer.
    """

    images: Tensor
    units: Tensor
    values: Tensor
    latent: str


@checked
@torch.no_grad()
def interpolate(
    program: _Program, x1: AnyData, x2: AnyData, num_steps: PositiveInteger = 8, *, layer: PositiveInteger = 1
) -> Any:
    """Return the means of the data on the way from each datum to another, ``(N, num_steps, *data_shape)``.

    Draw it by ``plots.interpolation(interpolate(vae, x1, x2))``.

    Parameters
    ----------
    program
        A program of this package with latents that are real numbers, such as a :class:`pyro_vae.VAE`.
    x1, x2
        Data ``(N, *data_shape)`` at the two ends, of any kind that :meth:`~pyro_vae.VAE.encode` takes. Labels that are
        packed with data are those of ``x1``.
    num_steps
        The number of points on each way, both ends included; 2 or more.
    layer
        The lowest layer that moves, from 1. It and those above go from one posterior mean to the other.

    Raises
    ------
    ValueError
        If there are not as many data in ``x2`` as in ``x1``, there is no such layer, or ``num_steps`` is 1.
    ProgramError
        If the latents are codes.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(8, 8), latent_dim=3, hidden_dims=(16,))
    >>> interpolate(vae, torch.zeros(2, 8, 8), torch.ones(2, 8, 8), num_steps=5).shape
    torch.Size([2, 5, 8, 8])
    """
    _check("interpolate", program, layer)
    if num_steps < 2:
        raise ValueError(f"num_steps: found {num_steps}, expected 2 or more, both ends included")
    names = program.latents[layer - 1 :]
    ends = {name: torch.as_tensor(program.encode(x2, t)) for t, name in enumerate(names, layer)}
    num_ends, begun = len(ends[names[0]]), 0

    def walk(x: Tensor) -> Tensor:
        nonlocal begun
        rows = slice(begun, begun + len(x))
        begun += len(x)
        means = program._means(x)
        if begun > num_ends:
            raise ValueError(f"x2: found {num_ends} data, expected as many as in x1, {begun} or more")
        steps = []
        for share in torch.linspace(0, 1, num_steps).tolist():
            known = {name: torch.lerp(means[name], ends[name][rows].to(means[name]), share) for name in names}
            steps.append(_decoded(program, known, len(x)))
        return torch.stack(steps, dim=1)  # (B, S, *data_shape)

    walked = program._in_batches(walk, x1, 1000)
    if begun != num_ends:
        raise ValueError(f"x2: found {num_ends} data, expected as many as in x1, {begun}")
    return walked


@checked
@torch.no_grad()
def traverse(
    program: _Program,
    x: AnyData,
    units: Annotated[Sequence[int], Arrays("the numbers of units, counted from 0", lists=True)],
    values: Annotated[Sequence[float], Arrays("the values of a unit", lists=True)] = (-3, -2, -1, 0, 1, 2, 3),
    *,
    layer: PositiveInteger = 1,
) -> Traversal:
    """Return the mean of the data for single units at other values than the encoder gives them.

    Draw it by ``plots.traversal(traverse(vae, x, units))``. The most active units are
    ``diagnosis.activity["z"].argsort(descending=True)[:6]``.

    Parameters
    ----------
    program
        A program of this package with latents that are real numbers, such as a :class:`pyro_vae.VAE`.
    x
        One datum, ``(1, *data_shape)``.
    units
        The units, counted from 0; in a layer of several dimensions, of the flattened one.
    values
        What each of them is set to in turn.
    layer
        The layer of the units, from 1.

    Raises
    ------
    ValueError
        If there is not one datum, there is no such unit or layer, or a value is not finite.
    ProgramError
        If the latents are codes.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(8, 8), latent_dim=3, hidden_dims=(16,))
    >>> traverse(vae, torch.zeros(1, 8, 8), units=[2, 0]).images.shape
    torch.Size([2, 7, 8, 8])
    """
    _check("traverse", program, layer)
    chosen, grid = torch.as_tensor(units), torch.as_tensor(values, dtype=torch.float64)
    if chosen.dim() != 1 or len(chosen) == 0 or chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise ValueError(f"units: found {chosen.tolist()}, expected one or more whole numbers, (U,)")
    if grid.dim() != 1 or len(grid) == 0 or not grid.isfinite().all():
        raise ValueError(f"values: found {grid.tolist()}, expected one or more finite numbers, (V,)")
    name = program.latents[layer - 1]

    def walk(x: Tensor) -> Tensor:
        means = program._means(x)
        mean = means[name]
        size = mean[0].numel()
        if len(x) != 1:
            raise ValueError(f"x: found {len(x)} data, expected one, (1, *data_shape)")
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < size:
            raise ValueError(
                f"units: found {chosen.tolist()}, expected numbers from 0 to {size - 1}, those of {name!r}"
            )
        rows = []
        for unit in chosen.tolist():
            moved = mean.flatten(1).repeat(len(grid), 1)
            moved[:, unit] = grid.to(moved)
            above = {each: means[each].expand(len(grid), *means[each].shape[1:]) for each in program.latents[layer:]}
            rows.append(_decoded(program, above | {name: moved.reshape(len(grid), *mean.shape[1:])}, len(grid)))
        return torch.stack(rows)[None]  # (1, U, V, *data_shape)

    images = torch.as_tensor(program._in_batches(walk, x, 1000))
    return Traversal(images[0], chosen, grid, name)


def _check(caller: str, program: Program, layer: int) -> None:
    program._check_layer(layer)
    if hasattr(program.guide, "codebook"):
        raise ProgramError(f"{caller}: found {type(program).__name__}, whose latents are codes, expected real numbers")


def _decoded(program: Program, known: dict[str, Tensor], num_data: int) -> Tensor:
    """Return the mean of the data for some latents, the layers below them at their means."""
    with exclusive("sample", brief=True), evaluating(program), AtMeans():
        model: Any = isolated(program.model.generate)
        trace = poutine.trace(poutine.condition(model, data=known)).get_trace(num_data)
    sites: dict[str, Any] = trace.nodes
    mean: Tensor = sites["x"]["fn"].mean
    return mean
