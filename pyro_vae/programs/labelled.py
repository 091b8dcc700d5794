r"""The base of programs for labelled data: their model, packed data and labels, and draws of a given class.

.. math:: p(x, y, z) = p(y)\, p(z)\, p(x|y, z)

A program is called with data and integer labels, ``model(x, y)``, or with both packed into one tensor ``(B, D + 1)``:
x flattened, followed by its label. Neither program runs on data of which some have no label. Those are a matter of the
objective, see :mod:`pyro_vae.objectives.semi_supervised`.

A decoder takes the latents followed by the one-hot label. This works with every likelihood on a network of
``latent_dim + num_classes`` inputs.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.nn import functional

from pyro_vae.data.arrays import as_tensor
from pyro_vae.data.batch import Batch
from pyro_vae.nn.layers import Activation
from pyro_vae.nn.mlp import ConditionalMLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.parts import AnyLikelihood, check_stands_alone, likelihood_of, sizes_of
from pyro_vae.programs.program import NumSamples, Program
from pyro_vae.runtime.arguments import Array, PositiveInteger, checked
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.objects import Arrays

__all__ = ["LabelledModel", "LabelledProgram", "labelled_parts", "number_of_classes", "one_hot", "unpack", "with_label"]

NO_LABEL = -1  # in the place of a label that is not known

Labels = Annotated[Any, Arrays("integers, as a tensor, an array or a list", least_dims=0, lists=True)]


def unpack(
    x: Tensor, y: Tensor | None, data_shape: tuple[int, ...], num_classes: int, least: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Return data ``(B, *data_shape)`` and their labels or ``None``, from x and y or from packed data.

    ``least`` is the least label that is allowed, 0 or -1 for no label.

    Raises
    ------
    ValueError
        If x has neither shape, or is packed in a dtype that rounds labels, or a label is not allowed.
    """
    if tuple(x.shape[1:]) == data_shape:
        return x, None if y is None else _allowed(y, num_classes, least)
    num_entries = math.prod(data_shape)
    if y is not None or x.dim() != 2 or x.shape[1] != num_entries + 1:
        packed = "" if y is not None else f", or (B, {num_entries + 1}), x and y as pack returns them"
        shape = ", ".join(map(str, ("B", *data_shape)))
        raise ValueError(f"x: found the shape {tuple(x.shape)}, expected ({shape}){packed}")
    if num_classes - 1 > 2 / torch.finfo(x.dtype).eps:
        raise ValueError(
            f"x: found labels of {num_classes} classes packed in {x.dtype}, which rounds whole numbers above "
            f"{int(2 / torch.finfo(x.dtype).eps)}, expected programs in float32"
        )
    return x[:, :-1].reshape(len(x), *data_shape), _allowed(x[:, -1], num_classes, least)


def _allowed(y: Tensor, num_classes: int, least: int) -> Tensor:
    """Return labels as integers. Raise ``ValueError`` if one is not allowed, unless the run is traced without values.

    Of the label -1, ``one_hot`` makes no class in a graph, and on a GPU an assertion that ends the process.
    """
    if detect_fake_mode() is None and not _are_labels(y, num_classes, least):
        advice = "" if least < 0 else f"; data without a label ({NO_LABEL}) train M2 by pyro_vae.SemiSupervised"
        raise ValueError(f"y: found {_described(y)}, expected integers from {least} to {num_classes - 1}{advice}")
    return y.long()


def one_hot(y: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """Return labels ``(*batch,)`` as one-hot vectors ``(*batch, num_classes)`` of the dtype of ``like``."""
    return functional.one_hot(y, num_classes).to(like.dtype)


def with_label(z: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return latents ``(*batch, latent_dim)`` followed by their one-hot labels; the batch shapes broadcast."""
    batch_shape = torch.broadcast_shapes(z.shape[:-1], y.shape)
    label = one_hot(y, num_classes, like=z)
    return torch.cat([z.expand(*batch_shape, -1), label.expand(*batch_shape, -1)], -1)


def number_of_classes(num_classes: Any) -> int:
    """Return ``num_classes``. Raise ``ValueError`` unless it is an integer of 2 or more."""
    return sizes_of("num_classes", [num_classes], "an integer, 2 or more", least=2)[0]


def labelled_parts(
    data_shape: tuple[int, ...],
    num_classes: int,
    latent_dim: int | None,
    hidden_dims: tuple[int, ...],
    likelihood: AnyLikelihood,
    activation: Activation,
    prior: nn.Module | None,
    posterior: nn.Module | None,
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return p(z), p(x|y, z) and q(z|x, y), each made from the sizes unless given.

    Raises
    ------
    ValueError
        If ``latent_dim`` is missing and a part has to be made.
    TypeError
        If the prior shares a part of another guide.
    """
    check_stands_alone(prior)
    if prior is not None and posterior is not None and not isinstance(likelihood, str):
        return prior, likelihood, posterior
    if latent_dim is None:
        raise ValueError("latent_dim: found None, expected one, or all of prior, likelihood and posterior as modules")
    if prior is None:
        prior = StandardNormal(latent_dim)
    if posterior is None:
        posterior = DiagonalNormal(ConditionalMLP(data_shape, num_classes, (2, latent_dim), hidden_dims, activation))
    if isinstance(likelihood, str):
        likelihood = likelihood_of(likelihood, latent_dim + num_classes, data_shape, hidden_dims[::-1], activation)
    return prior, likelihood, posterior


class LabelledModel(PyroModule):
    """The generative program of each datum: y uniform over the classes, z ~ p(z), x ~ p(x|y, z)."""

    def __init__(self, prior: nn.Module, likelihood: nn.Module, data_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.prior, self.likelihood = prior, likelihood
        self.data_shape, self.num_classes = data_shape, num_classes
        self.register_buffer("label_logits", torch.zeros(num_classes), persistent=False)

    def label_prior(self) -> TorchDistributionMixin:
        return dist.Categorical(logits=self.label_logits)

    def generate(self, num_data: int, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        with pyro.plate("data", num_data, dim=-1):
            y = pyro.sample("y", self.label_prior(), obs=y)  # (B,), or (C, 1) where the classes are enumerated
            z = pyro.sample("z", self.prior())  # (*batch, latent_dim)
            return pyro.sample("x", self.likelihood(with_label(z, y, self.num_classes)), obs=x)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x, y = unpack(x, y, self.data_shape, self.num_classes)
        return self.generate(len(x), x, y)


class LabelledProgram(Program):
    """A program pair for data with integer labels from 0 to ``num_classes - 1``.

    ``encode`` and ``reconstruct`` take data and labels in a tuple, or packed in one tensor.
    """

    least_label = 0
    """The least label that can be packed."""

    def __init__(self, model: LabelledModel, guide: PyroModule) -> None:
        super().__init__(model, guide, ("z",))
        self.data_shape, self.num_classes = model.data_shape, model.num_classes

    @checked
    def pack(self, x: Array, y: Labels) -> Tensor:
        """Return data ``(N, *data_shape)`` and labels ``(N,)`` packed into one tensor ``(N, D + 1)``.

        Raises
        ------
        ValueError
            If a shape is wrong, or a label is not one of the classes.
        """
        x, y = as_tensor(x, "x"), as_tensor(y, "y")
        if tuple(x.shape[1:]) != self.data_shape or tuple(y.shape) != (len(x),):
            raise ValueError(
                f"x, y: found the shapes {tuple(x.shape)} and {tuple(y.shape)}, expected (N, "
                f"{', '.join(map(str, self.data_shape))}) and (N,)"
            )
        if not self._known(y, self.least_label):
            no_label = "" if self.least_label == 0 else f", or {NO_LABEL} for no label"
            raise ValueError(f"y: found {_described(y)}, expected integers from 0 to {self.num_classes - 1}{no_label}")
        # half precision would round labels; bfloat16 has no 257
        x = x.to(torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.get_default_dtype())
        return torch.cat([x.reshape(len(x), -1), y[:, None].to(x)], 1)

    @checked
    @torch.no_grad()
    def sample(
        self,
        num_samples: NumSamples,
        *,
        layer: int | None = None,
        mean: bool = False,
        batch_size: PositiveInteger = 1000,
        y: Labels | None = None,
    ) -> Tensor:
        """Draw ``(num_samples, *data_shape)`` from p(x|y); with ``mean=True`` return each draw's mean of p(x|y, z).

        ``y`` is one label, or one for each sample. By default labels are drawn uniformly.

        Raises
        ------
        ValueError
            If ``num_samples`` is negative, there is no such layer, or a label is not one of the classes.
        """
        if y is None:
            return self._sample(num_samples, layer, mean, batch_size, {})
        labels = as_tensor(y, "y", placement(self)[0])
        if labels.dim() > 1 or labels.numel() not in (1, num_samples) or not self._known(labels):
            raise ValueError(
                f"y: found {_described(labels)}, expected an integer from 0 to {self.num_classes - 1}, or one for each "
                f"of {num_samples} samples"
            )
        known = {"y": labels.long().expand(max(num_samples, 1))}  # the base draws at least one
        return self._sample(num_samples, layer, mean, batch_size, known)

    def _tensor(self, batch: Batch) -> Tensor:
        return batch if isinstance(batch, Tensor) else self.pack(*batch.args, **batch.kwargs)

    def _given(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self._labels(x)}

    def _known(self, y: Tensor, least: int = 0) -> bool:
        """Return whether every label is an integer from ``least`` to the last class."""
        is_number = not y.is_complex() and y.dtype != torch.bool and y.numel() > 0
        return is_number and _are_labels(y, self.num_classes, least)

    def _labels(self, x: Tensor) -> Tensor:
        """Return the labels ``(B,)`` of packed data, on the program's device."""
        _, y = unpack(as_tensor(x, "x"), None, self.data_shape, self.num_classes)
        if y is None:
            raise ValueError("x: found data without labels, expected x and y as pack returns them")
        return y.to(placement(self)[0])


def _are_labels(y: Tensor, num_classes: int, least: int) -> bool:
    y = y.to(torch.promote_types(y.dtype, torch.float32))  # as a byte, -1 would be 255
    return bool(((y >= least) & (y < num_classes) & (y == y.round())).all())  # one value to be read from the device


def _described(y: Tensor) -> str:
    bounds = f" from {y.min().item()} to {y.max().item()}" if y.numel() else ""
    return f"labels of shape {tuple(y.shape)} and {y.dtype}{bounds}"
