"""Two programs that run together: a model, its guide, and the number of plates that they have."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.isolation import isolated
from pyro_vae.runtime.modules import placement

__all__ = ["ProgramPair"]


@dataclass(frozen=True)
class ProgramPair:
    """A model p(x, z) and a guide q(z|x).

    Attributes
    ----------
    model, guide
        The programs, each called with data ``(B, *data_shape)``.
    max_plate_nesting
        How many plates they have, the data plate included.
    """

    model: StochasticFunction
    guide: StochasticFunction
    max_plate_nesting: int = 1

    def isolated(self) -> ProgramPair:
        """Return the pair run in a parameter store of its own, see :func:`~pyro_vae.inference.isolation.isolated`."""
        return replace(self, model=isolated(self.model), guide=isolated(self.guide))

    def placement(self) -> tuple[torch.device, torch.dtype]:
        """Return the device and the floating dtype of the pair's parameters."""
        return placement(self.model, self.guide)
