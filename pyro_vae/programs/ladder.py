r"""The ladder variational autoencoder: a deterministic pass up, and a stochastic pass down that model and guide share.

.. math::

   d_t &= f_t(d_{t-1}), \quad d_0 = x, \qquad
          \mathcal{N}\bigl(z_t;\ \hat\mu_t(d_t), \hat\sigma_t^2(d_t)\bigr) \quad \text{the evidence for layer t} \\
   q(z_T|x) &= \mathcal{N}(z_T;\ \hat\mu_T, \hat\sigma_T^2), \qquad
   q(z_t|z_{t+1}, x) \propto \mathcal{N}(z_t;\ \hat\mu_t, \hat\sigma_t^2)\; p(z_t|z_{t+1})

The guide runs the model's own transitions and combines each with the evidence, both weighted by their precisions. It
therefore uses an upper layer as soon as the model does, and the layer does not collapse while the lower ones learn. The
transitions are one set of modules under the same names in model and guide, so that Pyro's parameter store holds each
parameter once.

Sønderby, Raiko, Maaløe, Sønderby and Winther, *Ladder Variational Autoencoders*, 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import ProgramError
from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import MLP
from pyro_vae.posteriors import DiagonalNormal, precision_weighted
from pyro_vae.programs.chain import (
    Chain,
    ChainProgram,
    HiddenDims,
    LayerSizes,
    check_chain,
    check_length,
    made_from_sizes,
    sizes_from,
)
from pyro_vae.programs.parts import AnyLikelihood, DatumShape, Part, Parts, check_layer, check_stands_alone, result_of

__all__ = ["LadderVAE"]


class Ladder(PyroModule):
    """The posterior: deterministic features upwards, then the model's transitions down, combined with the evidence."""

    def __init__(
        self, encoders: Sequence[nn.Module], posteriors: Sequence[nn.Module], transitions: nn.ModuleList
    ) -> None:
        super().__init__()
        self.encoders, self.posteriors = nn.ModuleList(encoders), nn.ModuleList(posteriors)
        self.transitions = transitions  # under their name in the model, so that Pyro registers them once

    def forward(self, x: Tensor) -> Tensor:
        d, evidence = x, []
        for encoder, posterior in zip(self.encoders, self.posteriors, strict=True):
            d = encoder(d)
            evidence.append(posterior(d))
        transitions = self.transitions  # once: at each access Pyro registers all its parameters
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample(f"z{len(evidence)}", evidence[-1])
            for t in range(len(evidence) - 1, 0, -1):
                merged = precision_weighted(evidence[t - 1], transitions[t - 1](z))
                z = pyro.sample(f"z{t}", merged)  # (B, latent_dims[t - 1])
        return z


class LadderVAE(ChainProgram):
    r"""A ladder variational autoencoder, from sizes or from its parts.

    .. math:: \log p(x) \ge \mathbb{E}_q\Bigl[\log p(x|z_1) + \sum_{t=2}^T \log \frac{p(z_{t-1}|z_t)}{q(z_{t-1}|z_t, x)}
              + \log \frac{p(z_T)}{q(z_T|x)}\Bigr]

    The model is that of :class:`pyro_vae.HVAE`. Every KL is between Gaussians given the layers above, so that
    ``ELBO(kl="analytic")`` has each in closed form. Train it with a warm-up, :func:`pyro_vae.anneal_kl`, as the paper
    does: without one its latents may collapse.

    Parameters
    ----------
    data_shape, latent_dims, hidden_dims, likelihood
        As for :class:`pyro_vae.HVAE`. Layer t has one width or more: those of :math:`f_t`, and in reverse those of the
        network that leads down from layer t.
    activation
        Activation of the hidden layers; ``"leaky_relu"`` as in the paper.
    batch_norm
        Normalise the hidden layers of the encoders and transitions over the batch. Bounds in train mode then differ
        from those in eval mode, which are the ones reported.
    prior, transitions
        The model's parts, as for :class:`pyro_vae.HVAE`; the transitions return diagonal Gaussians.
    encoders
        T modules, tensor to tensor: :math:`d_t = f_t(d_{t-1})`.
    posteriors
        T modules whose forward takes :math:`d_t` and returns the diagonal Gaussian
        :math:`\mathcal{N}(\hat\mu_t, \hat\sigma_t^2)`. Encoders and posteriors are given together.

    Raises
    ------
    ValueError
        If the likelihood is unknown, there is no layer, a list of parts has the wrong length, or a size is missing and
        a part has to be made.
    TypeError
        If a part is not a module.
    ProgramError
        If a part does not take or return its layer's shape, or one below the top returns no diagonal Gaussian.

    References
    ----------
    Sønderby et al., *Ladder Variational Autoencoders*, 2016.

    Examples
    --------
    >>> import torch
    >>> ladder = LadderVAE((28, 28), latent_dims=(100, 50), hidden_dims=((200, 200), (100, 100)))
    >>> ladder.encode(torch.zeros(3, 28, 28), layer=2).shape, ladder.sample(4, layer=1).shape
    (torch.Size([3, 50]), torch.Size([4, 28, 28]))
    """

    guide: Ladder

    def __init__(
        self,
        data_shape: DatumShape | None = None,
        latent_dims: LayerSizes = (100, 50),
        hidden_dims: HiddenDims = (200, 200),
        likelihood: AnyLikelihood = "bernoulli",
        *,
        activation: Activation = "leaky_relu",
        batch_norm: bool = False,
        prior: Part | None = None,
        transitions: Parts | None = None,
        encoders: Parts | None = None,
        posteriors: Parts | None = None,
    ) -> None:
        check_stands_alone(prior)
        if (encoders is None) != (posteriors is None):
            raise ValueError("encoders, posteriors: found one of the two, expected both or neither")
        sizes: tuple[int, ...] | None = None
        if prior is None or transitions is None or posteriors is None or isinstance(likelihood, str):
            data_shape, sizes, widths = sizes_from(
                data_shape, latent_dims, hidden_dims, "prior, transitions, likelihood, encoders and posteriors"
            )
            if posteriors is None:
                for t, layer in enumerate(widths):
                    if not layer:
                        raise ValueError(
                            f"hidden_dims: found {hidden_dims!r}, with none for layer z{t + 1}, expected one width or "
                            "more, the last being that of its features"
                        )
                inputs = [data_shape, *((layer[-1],) for layer in widths[:-1])]
                encoders = [
                    MLP(shape, None, layer, activation, batch_norm) for shape, layer in zip(inputs, widths, strict=True)
                ]
                posteriors = [
                    DiagonalNormal(MLP(layer[-1], (2, size), ())) for layer, size in zip(widths, sizes, strict=True)
                ]
            prior, transitions, likelihood = made_from_sizes(
                data_shape, sizes, widths, likelihood, activation, prior, transitions, batch_norm
            )
        assert encoders is not None
        data, layers = check_chain(prior, transitions, likelihood, sizes, data_shape)
        check_length("encoders", encoders, len(layers))
        check_length("posteriors", posteriors, len(layers))
        shape = data
        for t, (encoder, posterior) in enumerate(zip(encoders, posteriors, strict=True)):
            features = result_of(f"encoders[{t}]", encoder, shape)
            if not isinstance(features, Tensor) or tuple(features.shape[:1]) != (1,):
                kind = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
                raise ProgramError(f"encoders[{t}]: found {kind} for one datum, expected a tensor of shape (1, ...)")
            shape = tuple(features.shape[1:])
            evidence = result_of(f"posteriors[{t}]", posterior, shape)
            check_layer(f"posteriors[{t}]", f"z{t + 1}", evidence, layers[t])
            if t < len(transitions):
                _check_merges(t, evidence, result_of(f"transitions[{t}]", transitions[t], layers[t + 1]))
        model = Chain(prior, transitions, likelihood)
        super().__init__(model, Ladder(encoders, posteriors, model.transitions))


def _check_merges(t: int, evidence: object, transition: object) -> None:
    """Raise ``ProgramError`` unless both distributions of a layer are diagonal Gaussians."""
    try:
        precision_weighted(evidence, transition)
    except TypeError as error:
        raise ProgramError(f"posteriors[{t}], transitions[{t}]: layer z{t + 1}: {error}") from error
