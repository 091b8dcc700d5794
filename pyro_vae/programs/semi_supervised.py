r"""The semi-supervised variational autoencoder: some data have labels, and the label of the others is a latent.

.. math:: p(x, y, z) = p(y)\, p(z)\, p(x|y, z), \qquad q(y, z|x) = q(y|x)\, q(z|x, y)

The paper calls this model M2. Labelled data train p(x|y, z) and q(z|x, y). Unlabelled data train them under each label,
weighted by q(y|x), and train q(y|x) towards the labels that explain the data. The bounds of unlabelled data are in
:mod:`pyro_vae.objectives.labels`, the objective of both kinds of data is in
:mod:`pyro_vae.objectives.semi_supervised`.

Kingma, Rezende, Mohamed and Welling, *Semi-supervised Learning with Deep Generative Models*, 2014.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.data.arrays import as_tensor
from pyro_vae.errors import failing_on
from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import MLP
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.programs.labelled import (
    NO_LABEL,
    LabelledModel,
    LabelledProgram,
    labelled_parts,
    number_of_classes,
    one_hot,
    unpack,
)
from pyro_vae.programs.parts import AnyLikelihood, Part
from pyro_vae.runtime.arguments import Array, DataShape, PositiveInteger, Widths, checked
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating

__all__ = ["M2", "Classifier"]


class Classifier(Rebuildable):
    r"""The posterior of the label given the data.

    .. math:: q(y|x) = \mathrm{Cat}\bigl(y;\ \mathrm{softmax}\, f(x)\bigr)

    Parameters
    ----------
    network
        A network from x ``(*batch, *data_shape)`` to logits ``(*batch, num_classes)``.

    Examples
    --------
    >>> q = Classifier(MLP((8, 8), 10))(torch.zeros(3, 8, 8))
    >>> q.batch_shape, q.probs.shape
    (torch.Size([3]), torch.Size([3, 10]))
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.Categorical(logits=self.network(x))


class Guide(PyroModule):
    """The amortised posterior: y ~ q(y|x) unless the label is given, then z ~ q(z|x, y).

    Pyro's ``TraceEnum_ELBO`` enumerates the label.
    """

    def __init__(
        self, posterior: nn.Module, classifier: nn.Module, data_shape: tuple[int, ...], num_classes: int
    ) -> None:
        super().__init__()
        self.posterior, self.classifier = posterior, classifier
        self.data_shape, self.num_classes = data_shape, num_classes

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x, y = unpack(x, y, self.data_shape, self.num_classes)
        with pyro.plate("data", len(x), dim=-1):
            if y is None:
                y = pyro.sample("y", self.classifier(x), infer={"enumerate": "parallel"})
            return pyro.sample("z", self.posterior(x, one_hot(y, self.num_classes, like=x)))


class M2(LabelledProgram):
    r"""A semi-supervised variational autoencoder, from sizes or from its parts.

    .. math::

       \log p(x, y) &\ge \mathbb{E}_{q(z|x, y)}\bigl[\log p(x|y, z) + \log p(y) + \log p(z) - \log q(z|x, y)\bigr]
                     = -\mathcal{L}(x, y) \\
       \log p(x) &\ge \sum_y q(y|x) \bigl(-\mathcal{L}(x, y) - \log q(y|x)\bigr) = -\mathcal{U}(x)

    Call its programs with unlabelled data as ``model(x)`` and with labelled data as ``model(x, y)`` or, packed, as
    ``model(m2.pack(x, y))``. The label is the site ``"y"`` with a uniform prior. Data of which some have no label, -1,
    can be packed too; :class:`pyro_vae.SemiSupervised` trains on them, and the programs themselves refuse them.

    Parameters
    ----------
    data_shape
        Shape of one datum, such as ``(28, 28)``.
    num_classes
        The number of classes. Labels are integers from 0.
    latent_dim, hidden_dims, likelihood, activation, prior, posterior
        As for :class:`pyro_vae.ConditionalVAE`.
    classifier
        A module whose forward takes x and returns q(y|x); by default a network with the same hidden layers.

    Raises
    ------
    ValueError
        If the likelihood is unknown, there are fewer than two classes, or ``latent_dim`` is missing and a part has to
        be made. When run: if the data have another shape.
    TypeError
        If a part is not a module.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling, *Semi-supervised Learning with Deep Generative Models*, 2014.

    Examples
    --------
    >>> from pyro.infer import TraceEnum_ELBO
    >>> m2 = M2((8, 8), num_classes=10, latent_dim=2, hidden_dims=(16,))
    >>> x = torch.zeros(3, 8, 8)
    >>> TraceEnum_ELBO(max_plate_nesting=1).loss(m2.model, m2.guide, x) > 0  # U(x), summed over the data
    True
    >>> m2.classify(x).shape, m2.sample(5, y=7).shape
    (torch.Size([3]), torch.Size([5, 8, 8]))
    """

    model: LabelledModel
    guide: Guide
    least_label = NO_LABEL

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
        classifier: Part | None = None,
    ) -> None:
        sizes = tuple(map(int, data_shape)), number_of_classes(num_classes)
        prior, likelihood, posterior = labelled_parts(
            *sizes, latent_dim, tuple(map(int, hidden_dims)), likelihood, activation, prior, posterior
        )
        if classifier is None:
            classifier = Classifier(MLP(*sizes, hidden_dims, activation))
        super().__init__(LabelledModel(prior, likelihood, *sizes), Guide(posterior, classifier, *sizes))

    @checked
    @torch.no_grad()
    def classify(self, x: Array) -> Tensor:
        """Return the most probable labels ``(B,)`` under q(y|x) for data ``(B, *data_shape)``."""
        device, dtype = placement(self)
        x = as_tensor(x, "x").to(device, dtype)
        with evaluating(self), failing_on("x", x):
            logits: Tensor = self.guide.classifier(x).logits
        return logits.argmax(-1)

    def _means(self, x: Tensor) -> dict[str, Tensor]:
        data, y = unpack(as_tensor(x, "x"), None, self.data_shape, self.num_classes, NO_LABEL)
        return super()._means(x if y is None else self.pack(data, self._labels(x)))

    def _labels(self, x: Tensor) -> Tensor:
        """Return the known labels, and the most probable ones of data without a label."""
        x, y = unpack(as_tensor(x, "x"), None, self.data_shape, self.num_classes, NO_LABEL)
        if y is None:
            return self.classify(x)
        y = y.to(placement(self)[0])
        return torch.where(y == NO_LABEL, self.classify(x), y) if bool((y == NO_LABEL).any()) else y
