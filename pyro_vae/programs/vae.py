r"""The variational autoencoder: one layer of latents, one program for p and one for q.

.. math:: p(x, z) = p(z)\, p(x|z), \qquad q(z|x)

Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013.
"""

from __future__ import annotations

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import MLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.parts import AnyLikelihood, Part, likelihood_of, shared_by
from pyro_vae.programs.program import Program
from pyro_vae.runtime.arguments import DataShape, PositiveInteger, Widths

__all__ = ["VAE"]


class Model(PyroModule):
    """The generative program: z ~ p(z), x ~ p(x|z), independently for each datum."""

    def __init__(self, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.prior, self.likelihood = prior, likelihood
        for name, part in shared_by(prior).items():  # under their path in the guide, so that Pyro registers them once
            setattr(self, name, part)

    def generate(self, num_data: int, x: Tensor | None = None) -> Tensor:
        with pyro.plate("data", num_data, dim=-1):
            z = pyro.sample("z", self.prior())  # (B, latent_dim), or (K, B, latent_dim) under K particles
            return pyro.sample("x", self.likelihood(z), obs=x)

    def forward(self, x: Tensor) -> Tensor:
        return self.generate(len(x), x)


class Guide(PyroModule):
    """The amortised posterior: z ~ q(z|x)."""

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))


class VAE(Program):
    r"""A variational autoencoder, from sizes or from its parts.

    Its evidence lower bound, in nats per datum:

    .. math:: \log p(x) \ge \mathbb{E}_{q(z|x)}\bigl[\log p(x|z) + \log p(z) - \log q(z|x)\bigr]

    Parameters
    ----------
    data_shape
        Shape of one datum, such as ``(28, 28)``.
    latent_dim
        Length of z.
    hidden_dims
        Widths of the encoder's hidden layers; the decoder has the same in reverse.
    likelihood
        ``"bernoulli"`` for black and white pixels, ``"gaussian"`` for pixels in [0, 1] or a module whose forward
        returns p(x|z). As in the paper the Gaussian's mean passes a sigmoid, and the decoder returns its scale.
    activation
        Activation of the hidden layers; ``"tanh"`` as in the paper.
    prior, posterior
        Modules whose forward returns p(z) and q(z|x). A part that is given replaces the one made from the sizes. With
        all three parts given, no size is needed. A :class:`~pyro_vae.priors.VampPrior` brings its posterior along.

    Raises
    ------
    ValueError
        If the likelihood is unknown, a size is missing and a part has to be made, or the posterior is not the one that
        the prior shares.
    TypeError
        If a part is not a module.

    Examples
    --------
    >>> import torch
    >>> vae = VAE(data_shape=(28, 28), latent_dim=50, hidden_dims=(200, 200))
    >>> vae.sample(3).shape, vae.encode(torch.zeros(2, 28, 28)).shape
    (torch.Size([3, 28, 28]), torch.Size([2, 50]))
    """

    model: Model
    guide: Guide

    def __init__(
        self,
        data_shape: DataShape | None = None,
        latent_dim: PositiveInteger | None = None,
        hidden_dims: Widths = (200, 200),
        likelihood: AnyLikelihood = "bernoulli",
        *,
        activation: Activation = "tanh",
        prior: Part | None = None,
        posterior: Part | None = None,
    ) -> None:
        if prior is None or posterior is None or isinstance(likelihood, str):
            if data_shape is None or latent_dim is None:
                raise ValueError(
                    f"VAE: found data_shape={data_shape} and latent_dim={latent_dim}, expected both, or all of "
                    "prior, likelihood and posterior as modules"
                )
            data_shape, hidden_dims = tuple(map(int, data_shape)), tuple(map(int, hidden_dims))
            if prior is None:
                prior = StandardNormal(latent_dim)
            if posterior is None:
                posterior = shared_by(prior).get("posterior")
            if posterior is None:
                posterior = DiagonalNormal(MLP(data_shape, (2, latent_dim), hidden_dims, activation))
            if isinstance(likelihood, str):
                likelihood = likelihood_of(likelihood, latent_dim, data_shape, hidden_dims[::-1], activation)
        if shared_by(prior).get("posterior", posterior) is not posterior:
            raise ValueError(
                f"posterior: found another one than the {type(prior).__name__} shares, expected the same module in both"
            )
        super().__init__(Model(prior, likelihood), Guide(posterior), ("z",))

    @property
    def prior(self) -> nn.Module:
        """The module whose ``forward()`` returns p(z)."""
        return self.model.prior

    @property
    def posterior(self) -> nn.Module:
        """The module whose ``forward(x)`` returns q(z|x)."""
        return self.guide.posterior
