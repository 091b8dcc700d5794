"""A linear Gaussian model with one global latent and one of each datum, of which all is known in closed form.

.. math:: W \\sim N(0, 1), \\quad z_b \\sim N(W, 1), \\quad x_b \\sim N(z_b, 1), \\qquad
          q(W) = N(m, s^2), \\quad q(z_b|x_b, W) = N((x_b + W)/2 + d, 1/2)

The guide of the z's is their posterior given W, but for the shift d. So a weight given W is
:math:`\\log N(x_b; W, 2)` plus what the shift costs.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

X = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5, -0.3], dtype=torch.float64)


class Model(nn.Module):
    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size = size  # of the data set that the data are a subsample of

    def forward(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", self.size or len(x), subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Guide(nn.Module):
    def __init__(self, size: int | None = None, shift: float = 0.4) -> None:
        super().__init__()
        self.size = size
        self.loc = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        pyro.module("guide", self)
        w = pyro.sample("w", dist.Normal(self.loc, self.log_scale.exp()))
        with pyro.plate("data", self.size or len(x), subsample_size=len(x)):
            pyro.sample("z", dist.Normal((x + w) / 2 + self.shift, 0.5**0.5))


def pair(size: int | None = None, shift: float = 0.4) -> tuple[Model, Guide]:
    return Model(size), Guide(size, shift)


def exact_elbo(guide: Guide, x: Tensor, num_data: int) -> Tensor:
    """The ELBO of all ``num_data`` data, with the sum over them estimated from ``x``, in closed form.

    Given W, a datum adds :math:`\\log N(x; W, 2) - d^2`, the KL of two normals of variance 1/2 that lie d apart.
    """
    mean, variance = guide.loc, (2 * guide.log_scale).exp()
    log_x = -0.5 * torch.log(torch.tensor(4 * torch.pi)) - ((x - mean).square() + variance) / 4 - guide.shift.square()
    kl = 0.5 * (variance + mean.square() - 1) - guide.log_scale
    return num_data * log_x.mean() - kl


def seeded(run, *arguments, **options):
    torch.manual_seed(7)
    return run(*arguments, **options)


def close(found, expected, tolerance=1e-11):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=tolerance, atol=tolerance)
