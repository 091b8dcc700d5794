r"""The variational autoencoder: one layer of latents, one program for p and one for q.

.. math:: p(x, z) = p(z)\, p(x|z), \qquad q(z|x)

Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.modules import placement
from pyro_vae.networks import MLP, Activation
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.program import Program
from pyro_vae.state import evaluating

__all__ = ["VAE"]


class Model(PyroModule):
    """The generative program: z ~ p(z), x ~ p(x|z), independently for each datum."""

    def __init__(self, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.prior, self.likelihood = prior, likelihood

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior())  # (B, latent_dim), or (K, B, latent_dim) under K particles
            return pyro.sample("x", self.likelihood(z), obs=x)


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
        Hidden layers of the encoder; the decoder has the same in reverse.
    likelihood
        ``"bernoulli"`` for black and white pixels; ``"gaussian"`` for pixels in [0, 1], its mean squashed by a sigmoid
        and its scale given by the decoder, as in the paper; or a module whose forward returns p(x|z).
    activation
        Of the hidden layers; ``"tanh"`` as in the paper.
    prior, posterior
        Modules whose forward returns p(z) and q(z|x). A part that is given replaces the one made from the sizes; with
        all three parts given no size is needed.

    Raises
    ------
    ValueError
        For an unknown likelihood, or sizes that are missing for a part that is not given.
    TypeError
        For a part that is no module.

    Examples
    --------
    >>> vae = VAE(data_shape=(28, 28), latent_dim=50, hidden_dims=(200, 200))
    >>> vae.sample(3).shape, vae.encode(torch.zeros(2, 28, 28)).shape
    (torch.Size([3, 28, 28]), torch.Size([2, 50]))
    """

    model: Model
    guide: Guide

    def __init__(
        self,
        data_shape: Sequence[int] | None = None,
        latent_dim: int | None = None,
        hidden_dims: Sequence[int] = (200, 200),
        likelihood: Literal["bernoulli", "gaussian"] | nn.Module = "bernoulli",
        *,
        activation: Activation = "tanh",
        prior: nn.Module | None = None,
        posterior: nn.Module | None = None,
    ) -> None:
        if isinstance(likelihood, str) and likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f"likelihood: found {likelihood!r}, expected 'bernoulli', 'gaussian' or a module")
        for name, part in (("prior", prior), ("likelihood", likelihood), ("posterior", posterior)):
            if not isinstance(part, (nn.Module, str if name == "likelihood" else type(None))):
                raise TypeError(
                    f"{name}: found {type(part).__name__}, expected a module whose forward is a distribution"
                )
        if prior is None or posterior is None or isinstance(likelihood, str):
            if data_shape is None or latent_dim is None:
                raise ValueError(
                    f"VAE: found data_shape={data_shape} and latent_dim={latent_dim}, expected both, or all of "
                    "prior, likelihood and posterior as modules"
                )
            data_shape, hidden_dims = tuple(data_shape), tuple(hidden_dims)
            if prior is None:
                prior = StandardNormal(latent_dim)
            if posterior is None:
                posterior = DiagonalNormal(MLP(data_shape, (2, latent_dim), hidden_dims, activation))
            if likelihood == "bernoulli":
                decoder = MLP(latent_dim, data_shape, hidden_dims[::-1], activation)
                likelihood = Bernoulli(decoder, data_shape)
            elif likelihood == "gaussian":
                decoder = MLP(latent_dim, (2, *data_shape), hidden_dims[::-1], activation)
                likelihood = Gaussian(decoder, data_shape, scale="decoder", mean="sigmoid")
        assert isinstance(prior, nn.Module) and isinstance(likelihood, nn.Module) and isinstance(posterior, nn.Module)
        super().__init__(Model(prior, likelihood), Guide(posterior))

    @property
    def prior(self) -> nn.Module:
        """The module whose ``forward()`` returns p(z)."""
        return self.model.prior

    @property
    def likelihood(self) -> nn.Module:
        """The module whose ``forward(z)`` returns p(x|z)."""
        return self.model.likelihood

    @property
    def posterior(self) -> nn.Module:
        """The module whose ``forward(x)`` returns q(z|x)."""
        return self.guide.posterior

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the posterior means of z, ``(B, latent_dim)``, of data ``(B, *data_shape)``."""
        device, dtype = placement(self)
        with evaluating(self):
            return self.posterior(torch.as_tensor(x).to(device, dtype)).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|z) at the posterior mean of z, ``(B, *data_shape)``, of data of that shape."""
        with evaluating(self):
            return self.likelihood(self.encode(x)).mean

    @torch.no_grad()
    def sample(self, num_samples: int, *, mean: bool = False) -> Tensor:
        """Draw ``(num_samples, *data_shape)`` from p(x); with ``mean=True`` return each draw's mean of p(x|z).

        Papers print the means, which look smoother than the data do; the draws are what the model holds likely.

        Raises
        ------
        ValueError
            If ``num_samples`` is negative.
        """
        if num_samples < 0:
            raise ValueError(f"num_samples: found {num_samples}, expected 0 or more")
        with evaluating(self):
            conditional = self.likelihood(self.prior().sample((num_samples,)))
            return conditional.mean if mean else conditional.sample()
