r"""The hierarchical variational autoencoder: a Markov chain of latents, one site a layer.

.. math::

   p(x, z_{1:T}) &= p(z_T) \prod_{t=2}^T p(z_{t-1}|z_t)\; p(x|z_1) \\
   q(z_{1:T}|x) &= q(z_1|x) \prod_{t=2}^T q(z_t|z_{t-1}) && \text{bottom-up, or} \\
   q(z_{1:T}|x) &= q(z_T|x) \prod_{t=2}^T q(z_{t-1}|z_t, x) && \text{top-down}

Every layer has its own location and scale. The exact posterior of the chain factorises in both ways, so only the form
of its distributions limits either guide. Bottom-up, each layer is given the layer below. Top-down, each layer is given
the data and the layer above, and its KL has a closed form.

Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2015 (bottom-up); Rezende, Mohamed and Wierstra,
*Stochastic Backpropagation and Approximate Inference in Deep Generative Models*, 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import MLP, ConditionalMLP
from pyro_vae.posteriors import DiagonalNormal
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

__all__ = ["HVAE"]


class BottomUp(PyroModule):
    """The posterior as a chain from the data up: z_1 ~ q(z_1|x), then each layer given the one below."""

    def __init__(self, posteriors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.posteriors = nn.ModuleList(posteriors)

    def forward(self, x: Tensor) -> Tensor:
        below = x
        with pyro.plate("data", len(x), dim=-1):
            for t, posterior in enumerate(self.posteriors, 1):
                below = pyro.sample(f"z{t}", posterior(below))  # (B, latent_dims[t - 1])
        return below


class TopDown(PyroModule):
    """The posterior in the model's order: z_T ~ q(z_T|x), then each layer given the data and the one above."""

    def __init__(self, posteriors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.posteriors = nn.ModuleList(posteriors)

    def forward(self, x: Tensor) -> Tensor:
        posteriors = self.posteriors  # once: at each access Pyro registers all its parameters
        top = len(posteriors)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample(f"z{top}", posteriors[top - 1](x))
            for t in range(top - 1, 0, -1):
                z = pyro.sample(f"z{t}", posteriors[t - 1](x, z))  # (B, latent_dims[t - 1])
        return z


class HVAE(ChainProgram):
    r"""A hierarchical variational autoencoder, from sizes or from its parts.

    .. math:: \log p(x) \ge \mathbb{E}_q\Bigl[\log p(x|z_1) + \sum_{t=2}^T \log p(z_{t-1}|z_t) + \log p(z_T)
              - \log q(z_{1:T}|x)\Bigr]

    Its sites are ``"z1"`` (next to the data) to ``"zT"`` (the top). With one layer it is :class:`pyro_vae.VAE` with the
    site ``"z1"`` for ``"z"``: the same parts, the same initial weights and the same draws from the same seed.

    Parameters
    ----------
    data_shape
        Shape of one datum, such as ``(28, 28)``.
    latent_dims
        Lengths of :math:`z_1, \dots, z_T`, from the data up.
    hidden_dims
        Hidden widths of the networks that lead up to layer t; those that lead down from it have the same in reverse.
        One list for all layers, or one list a layer, ``((200, 200), (100, 100))``.
    likelihood
        ``"bernoulli"``, ``"gaussian"`` or a module whose forward returns p(x|z_1), as for :class:`pyro_vae.VAE`.
    guide
        ``"bottom-up"`` or ``"top-down"``, see above.
    activation
        Activation of the hidden layers.
    prior
        A module whose ``forward()`` returns p(z_T).
    transitions
        T - 1 modules: the forward of ``transitions[t - 1]`` takes :math:`z_{t+1}` and returns :math:`p(z_t|z_{t+1})`.
    posteriors
        T modules that return :math:`q(z_t|\cdot)`. Bottom-up, the first takes x and ``posteriors[t - 1]`` takes
        :math:`z_{t-1}`. Top-down, the last takes x and ``posteriors[t - 1]`` takes :math:`(x, z_{t+1})`. A part that is
        given replaces the one made from the sizes. With all parts given, no size is needed.

    Raises
    ------
    ValueError
        If the guide or the likelihood is unknown, there is no layer, a list of parts has the wrong length, or a size is
        missing and a part has to be made.
    TypeError
        If a part is not a module.
    ProgramError
        If a part does not take or return its layer's shape.

    References
    ----------
    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2015, section 5.

    Examples
    --------
    >>> import torch
    >>> hvae = HVAE((28, 28), latent_dims=(100, 50), hidden_dims=((200, 200), (100, 100)))
    >>> hvae.encode(torch.zeros(3, 28, 28), layer=2).shape, hvae.sample(4, layer=1).shape
    (torch.Size([3, 50]), torch.Size([4, 28, 28]))
    """

    guide: BottomUp | TopDown

    def __init__(
        self,
        data_shape: DatumShape | None = None,
        latent_dims: LayerSizes = (100, 50),
        hidden_dims: HiddenDims = (200, 200),
        likelihood: AnyLikelihood = "bernoulli",
        *,
        guide: Annotated[Literal["bottom-up", "top-down"], "'bottom-up' or 'top-down'"] = "bottom-up",
        activation: Activation = "tanh",
        prior: Part | None = None,
        transitions: Parts | None = None,
        posteriors: Parts | None = None,
    ) -> None:
        check_stands_alone(prior)
        sizes: tuple[int, ...] | None = None
        if prior is None or transitions is None or posteriors is None or isinstance(likelihood, str):
            data_shape, sizes, widths = sizes_from(
                data_shape, latent_dims, hidden_dims, "prior, transitions, likelihood and posteriors"
            )
            if posteriors is None:
                make = _bottom_up if guide == "bottom-up" else _top_down
                posteriors = make(data_shape, sizes, widths, activation)
            prior, transitions, likelihood = made_from_sizes(
                data_shape, sizes, widths, likelihood, activation, prior, transitions
            )
        data, layers = check_chain(prior, transitions, likelihood, sizes, data_shape)
        check_length("posteriors", posteriors, len(layers))
        last = len(layers) - 1
        for t, posterior in enumerate(posteriors):
            if guide == "bottom-up":
                given = [data if t == 0 else layers[t - 1]]
            else:
                given = [data] if t == last else [data, layers[t + 1]]
            name = f"posteriors[{t}]"
            check_layer(name, f"z{t + 1}", result_of(name, posterior, *given), layers[t])
        super().__init__(
            Chain(prior, transitions, likelihood),
            (BottomUp if guide == "bottom-up" else TopDown)(posteriors),
        )

    @property
    def posteriors(self) -> nn.ModuleList:
        """The modules of the guide, from the data up."""
        return self.guide.posteriors


def _bottom_up(
    data_shape: tuple[int, ...],
    latent_dims: Sequence[int],
    hidden_dims: Sequence[Sequence[int]],
    activation: Activation,
) -> list[nn.Module]:
    """Return q(z_1|x) and each q(z_t|z_{t-1})."""
    inputs = [data_shape, *((size,) for size in latent_dims[:-1])]
    return [
        DiagonalNormal(MLP(shape, (2, size), widths, activation))
        for shape, size, widths in zip(inputs, latent_dims, hidden_dims, strict=True)
    ]


def _top_down(
    data_shape: tuple[int, ...],
    latent_dims: Sequence[int],
    hidden_dims: Sequence[Sequence[int]],
    activation: Activation,
) -> list[nn.Module]:
    """Return each q(z_t|x, z_{t+1}), and q(z_T|x)."""
    lower = [
        DiagonalNormal(ConditionalMLP(data_shape, above, (2, size), widths, activation))
        for (size, above), widths in zip(pairwise(latent_dims), hidden_dims[:-1], strict=True)
    ]
    return [*lower, DiagonalNormal(MLP(data_shape, (2, latent_dims[-1]), hidden_dims[-1], activation))]
