"""The memory of a distribution for the noise of its last draw.

A draw is rounded, and its noise cannot always be found again. So the noise is kept with the distribution, for that very
tensor. Who draws once and scores the draw elsewhere, such as a second run of a guide on the same latents, says so by
:func:`remember`. Nothing is kept on the tensor itself, as another distribution, a prior, makes it of other noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Remembering", "noise_of_draw", "remember"]


class _Draw(NamedTuple):
    """A value, its noise, the version of its memory, and the step of the graph that made it from the noise."""

    value: Tensor
    noise: Tensor
    version: int
    path: Any


class Remembering:
    """A Gaussian that knows the noise of its last draw; that of any other tensor, even an equal one, is not known."""

    _drawn: _Draw | None = None

    def remember(self, value: Tensor, noise: Tensor, path: Any = None) -> None:
        """Take a value for the image of noise; ``path`` is the step that made it from the noise here, if any."""
        self._drawn = _Draw(value, noise, _version(value), path)

    def noise_of_draw(self, value: Tensor) -> Tensor | None:
        """Return the noise of the last draw, ``None`` for any other value, and for one that was changed since."""
        drawn = self._drawn
        is_drawn = drawn is not None and value is drawn.value and _version(value) == drawn.version
        return drawn.noise if drawn is not None and is_drawn else None

    def moves_along(self, value: Tensor) -> bool:
        """Return whether the derivative of a draw's density is the total one, at constant noise."""
        path = None if self._drawn is None else self._drawn.path
        return not torch.is_grad_enabled() or (path is not None and value.grad_fn is path)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def noise_of_draw(fn: Any, value: Tensor) -> Tensor | None:
    """Return the noise of a value, if it is the last draw of a Gaussian that remembers it, else ``None``."""
    gaussian = _unwrapped(fn)
    return gaussian.noise_of_draw(value) if isinstance(gaussian, Remembering) else None


def remember(fn: Any, value: Tensor, noise: Tensor | None) -> None:
    """Let a distribution with the same parameters know the noise of another one's draw, which may be another tensor."""
    gaussian = _unwrapped(fn)
    if noise is not None and isinstance(gaussian, Remembering):
        gaussian.remember(value, noise)


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, (torch.distributions.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return fn
