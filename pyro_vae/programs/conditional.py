r"""The conditional variational autoencoder: a density of the data given their labels, such as digits given their class.

.. math:: p(x, z|y) = p(z)\, p(x|y, z), \qquad q(z|x, y)

The label is always given and has no density of its own. The latents hold what the label leaves open, such as the
handwriting of a digit. In Sohn et al. the condition is an image and the prior may depend on it. Here the condition is a
label and the prior does not depend on it, a case that the paper includes.

Sohn, Lee and Yan, *Learning Structured Output Representation using Deep Conditional Generative Models*, 2015.
"""

from __future__ import annotations

import pyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.nn.layers import Activation
from pyro_vae.programs.labelled import (
    LabelledModel,
    LabelledProgram,
    labelled_parts,
    number_of_classes,
    one_hot,
    unpack,
)
from pyro_vae.programs.parts import AnyLikelihood, Part
from pyro_vae.runtime.arguments import DataShape, PositiveInteger, Widths

__all__ = ["ConditionalVAE"]


class Model(LabelledModel):
    """The generative program for given labels y: z ~ p(z), x ~ p(x|y, z).

    The label is a masked site, which adds nothing to the log density.
    """

    def label_prior(self) -> TorchDistributionMixin:
        return super().label_prior().mask(False)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x, y = require_labels(x, y, self.data_shape, self.num_classes)
        return self.generate(len(x), x, y)


class Guide(PyroModule):
    """The amortised posterior: z ~ q(z|x, y)."""

    def __init__(self, posterior: nn.Module, data_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.posterior = posterior
        self.data_shape, self.num_classes = data_shape, num_classes

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x, y = require_labels(x, y, self.data_shape, self.num_classes)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x, one_hot(y, self.num_classes, like=x)))


def require_labels(x: Tensor, y: Tensor | None, data_shape: tuple[int, ...], num_classes: int) -> tuple[Tensor, Tensor]:
    """Return data and labels, from x and y or from packed data. Raise ``ValueError`` if there are no labels."""
    x, y = unpack(x, y, data_shape, num_classes)
    if y is None:
        raise ValueError("y: found data without labels, expected labels (B,), or x and y as pack returns them")
    return x, y


class ConditionalVAE(LabelledProgram):
    r"""A variational autoencoder of labelled data, from sizes or from its parts.

    .. math:: \log p(x|y) \ge \mathbb{E}_{q(z|x, y)}\bigl[\log p(x|y, z) + \log p(z) - \log q(z|x, y)\bigr]

    Call the programs as ``model(x, y)`` and ``guide(x, y)``, or with x and y packed in one tensor. The rest of the
    package takes packed data: ``fit(cvae.model, cvae.guide, cvae.pack(x, y))``. All bounds are of log p(x|y).

    Parameters
    ----------
    data_shape
        Shape of one datum, such as ``(28, 28)``.
    num_classes
        The number of classes. Labels are integers from 0.
    latent_dim
        Length of z.
    hidden_dims
        Widths of the encoder's hidden layers; the decoder has the same in reverse. The encoder has one more layer, of
        the last width, which takes the label (:class:`pyro_vae.ConditionalMLP`).
    likelihood
        ``"bernoulli"``, ``"gaussian"`` or a module, as for :class:`pyro_vae.VAE`. A module's forward takes z followed
        by the one-hot label ``(*batch, latent_dim + num_classes)`` and returns p(x|y, z).
    activation
        Activation of the hidden layers.
    prior
        A module whose ``forward()`` returns p(z).
    posterior
        A module whose forward takes x ``(B, *data_shape)`` and one-hot labels ``(B, num_classes)`` and returns
        q(z|x, y). With all parts given, ``latent_dim`` is not needed.

    Raises
    ------
    ValueError
        If the likelihood is unknown, there are fewer than two classes, or ``latent_dim`` is missing and a part has to
        be made. When run: if the data have no labels or another shape.
    TypeError
        If a part is not a module.

    References
    ----------
    Sohn, Lee and Yan, *Learning Structured Output Representation using Deep Conditional Generative Models*, 2015.

    Examples
    --------
    >>> import torch, pyro_vae
    >>> cvae = ConditionalVAE((8, 8), num_classes=10, latent_dim=2, hidden_dims=(16,))
    >>> x, y = torch.zeros(3, 8, 8), torch.tensor([0, 4, 9])
    >>> pyro_vae.ELBO().bound(cvae.model, cvae.guide, cvae.pack(x, y)).shape
    torch.Size([3])
    >>> cvae.sample(5, y=7).shape
    torch.Size([5, 8, 8])
    """

    def __init__(
        self,
        data_shape: DataShape,
        num_classes: int,
        latent_dim: PositiveInteger | None = None,
        hidden_dims: Widths = (200, 200),
        likelihood: AnyLikelihood = "bernoulli",
        *,
        activation: Activation = "tanh",
        prior: Part | None = None,
        posterior: Part | None = None,
    ) -> None:
        sizes = tuple(map(int, data_shape)), number_of_classes(num_classes)
        prior, likelihood, posterior = labelled_parts(
            *sizes, latent_dim, tuple(map(int, hidden_dims)), likelihood, activation, prior, posterior
        )
        super().__init__(Model(prior, likelihood, *sizes), Guide(posterior, *sizes))
