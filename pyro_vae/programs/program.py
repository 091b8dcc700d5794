"""A program pair as one module.

``model`` and ``guide`` are what Pyro runs. Holding both in one module moves, saves and lists them together; each half
also carries the recipe of the whole, so that a checkpoint written from the two halves can rebuild the pair.
"""

from __future__ import annotations

from typing import Any

from pyro.nn import PyroModule

from pyro_vae.modules import Rebuildable

__all__ = ["Program"]


class Program(Rebuildable):
    """A generative ``model`` and its amortised ``guide``, both called with data of shape ``(B, *data_shape)``."""

    model: PyroModule
    guide: PyroModule

    def __init__(self, model: PyroModule, guide: PyroModule) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        for half in (model, guide):
            half.recipe = self.recipe

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} is a pair of programs: call its .model or .guide, or an objective such as "
            "ELBO()(vae.model, vae.guide)"
        )
