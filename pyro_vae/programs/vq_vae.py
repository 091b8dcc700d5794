r"""The vector-quantised autoencoder: the encoder chooses a grid of codes from a codebook, deterministically.

The latent z is a grid of P vectors, each one of the codebook's :math:`e_1, \dots, e_K`. The model draws codes and
decodes their vectors. The guide is a point mass at the codes nearest to the encoder's outputs :math:`z_e(x)`:

.. math:: p(x, z) = p(z)\, p(x|z), \qquad q(z|x) = \delta_{z_q(x)}, \qquad
          z_q(x)_i = e_{k_i}, \quad k_i = \arg\min_k \lVert z_e(x)_i - e_k \rVert

As :math:`\log q(z_q|x) = 0`, the evidence lower bound is one term of the sum :math:`p(x) = \sum_z p(z)\, p(x|z)`,

.. math:: \log p(x) \ge \log p(x|z_q(x)) + \log p(z_q(x)),

in nats, and comparable with the bounds of other programs. Training departs from its gradient in two places only. The
*straight-through estimator* passes the gradient with respect to :math:`z_q` on to :math:`z_e`,

.. math:: z_q = e_k + (z_e - \mathrm{sg}[z_e]),

where sg stops the gradient. The *commitment loss* pulls :math:`z_e` towards the codes that it chose,

.. math:: - \beta \sum_{i=1}^P \lVert z_{e,i} - \mathrm{sg}[e_{k_i}] \rVert^2 .

It is not part of a bound. It enters as a term of :math:`-\log q` minus its own value, with the gradient
:math:`-2 \beta (z_e - e_k)` and the value zero. Every objective that differentiates log q trains with it (Pyro's
too), and none reports it. The paper has the mean over the positions in place of the sum, so its β is P times this one.
The codes themselves follow the encoder by moving averages, see :mod:`pyro_vae.nn.codebook`.

van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning*, 2017.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.data.arrays import as_tensor
from pyro_vae.data.conversion import as_batches
from pyro_vae.errors import ProgramError, failing_on
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.nn.codebook import ChosenVectors, Codebook, CodeVectors
from pyro_vae.nn.grids import Channels, GridDecoder, GridEncoder
from pyro_vae.priors.codes import AutoregressiveCodes, IndependentCodes
from pyro_vae.programs.parts import AnyLikelihood, DatumShape, Part, check_layer, check_stands_alone, result_of
from pyro_vae.programs.program import Program
from pyro_vae.runtime.arguments import AnyData, Array, NonNegativeNumber, PositiveInteger, checked
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating

__all__ = ["VQVAE", "CodePriorName", "perplexity"]

CodePriorName = Literal["independent", "autoregressive"]


class Model(PyroModule):
    """The generative program: codes from their prior, then x given the codes' vectors."""

    def __init__(self, prior: nn.Module, codebook: Codebook, likelihood: nn.Module) -> None:
        super().__init__()
        self.prior, self.codebook, self.likelihood = prior, codebook, likelihood

    def generate(self, num_data: int, x: Tensor | None = None) -> Tensor:
        codes = self.prior()
        num_event_dims = len(codes.event_shape) + 1
        with pyro.plate("data", num_data, dim=-1):
            z = pyro.sample("z", CodeVectors(codes, self.codebook.vectors))  # (B, *code_shape, code_dim)
            return pyro.sample("x", self.likelihood(z.flatten(-num_event_dims)), obs=x)

    def forward(self, x: Tensor) -> Tensor:
        return self.generate(len(x), x)


class Guide(PyroModule):
    """The posterior: a point mass at the codes nearest to the encoder's outputs."""

    def __init__(self, encoder: nn.Module, codebook: Codebook, commitment: float) -> None:
        super().__init__()
        self.encoder, self.codebook, self.commitment = encoder, codebook, commitment

    def forward(self, x: Tensor) -> Tensor:
        codebook = self.codebook
        outputs = self.encoder(x)  # (B, *code_shape, code_dim)
        if codebook.training and outputs.requires_grad:
            codebook.update(outputs)  # before the choice, so that the model replays it with the same vectors
        chosen = codebook.vectors[codebook(outputs)]
        distance = (outputs - chosen).square().flatten(1).sum(-1)  # (B,)
        z = chosen + (outputs - outputs.detach())
        log_q = self.commitment * (distance - distance.detach())
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", ChosenVectors(z, log_q, event_dim=z.dim() - 1))


class VQVAE(Program):
    r"""A vector-quantised variational autoencoder.

    .. math:: \log p(x) \ge \log p(x|z_q(x)) + \log p(z_q(x))

    The latent ``"z"`` is the grid of the chosen codes' vectors, ``(*code_shape, code_dim)``. ``encode`` returns it, and
    :meth:`codes` returns the codes as integers. All particles of a datum are equal, so one is enough, and
    :func:`pyro_vae.log_likelihood` returns the bound.

    The codebook is updated once in each training step: in train mode, if the encoder's output requires a gradient. To
    train a prior on fixed codes, freeze the encoder, ``vq.encoder.requires_grad_(False)``. To keep the prior uniform
    until then, freeze it, ``vq.prior.requires_grad_(False)``.

    The commitment loss is a term of log q: ``gradient="stl"`` and ``"dreg"`` leave it out, and
    :func:`pyro_vae.anneal_kl` scales it together with log p(z). Wake-sleep cannot train a point mass.

    Parameters
    ----------
    data_shape
        Shape of one image with pixels in [0, 1]: ``(H, W)`` or ``(C, H, W)``. With your own encoder and likelihood, any
        shape.
    num_codes, code_dim
        The number of codes, and the length of their vectors.
    channels
        Channels of the convolutional encoder, each entry of which halves the image, and of the decoder.
    likelihood
        ``"bernoulli"``, ``"gaussian"`` (with the scale from the decoder) or a module whose forward returns p(x|z). It
        takes the flattened grid ``(*batch, prod(code_shape) * code_dim)``.
    prior
        ``"independent"`` for :class:`~pyro_vae.priors.codes.IndependentCodes`, ``"autoregressive"`` for
        :class:`~pyro_vae.priors.codes.AutoregressiveCodes`, or a module whose forward returns a distribution of
        integers with the event shape ``code_shape``.
    encoder
        Your own network, from ``(B, *data_shape)`` to ``(B, *code_shape, code_dim)``.
    codebook
        A :class:`~pyro_vae.nn.codebook.Codebook`, for example with another decay. Its sizes replace ``num_codes`` and
        ``code_dim``.
    commitment
        β, the weight of the squared distances summed over all positions; 0 or more.

    Raises
    ------
    ValueError
        If the likelihood or the prior is unknown, or a size or ``commitment`` is out of range.
    TypeError
        If a part is not a module.
    ProgramError
        If the parts do not fit each other.

    References
    ----------
    van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation Learning*, 2017.

    Examples
    --------
    >>> vq = VQVAE((28, 28), num_codes=32, code_dim=4, channels=(8, 16))
    >>> x = torch.zeros(3, 28, 28)
    >>> vq.codes(x).shape, vq.encode(x).shape, vq.reconstruct(x).shape, vq.sample(2).shape
    (torch.Size([3, 7, 7]), torch.Size([3, 7, 7, 4]), torch.Size([3, 28, 28]), torch.Size([2, 28, 28]))
    """

    model: Model
    guide: Guide

    def __init__(
        self,
        data_shape: DatumShape,
        num_codes: PositiveInteger = 128,
        code_dim: PositiveInteger = 16,
        channels: Channels = (32, 64),
        likelihood: AnyLikelihood = "bernoulli",
        *,
        prior: CodePriorName | Part = "independent",
        encoder: nn.Module | None = None,
        codebook: Annotated[Codebook, "a Codebook"] | None = None,
        commitment: NonNegativeNumber = 0.25,
    ) -> None:
        if not isinstance(prior, str):
            check_stands_alone(prior)
        data_shape = tuple(map(int, data_shape))
        codebook = Codebook(num_codes, code_dim) if codebook is None else codebook
        encoder = GridEncoder(data_shape, codebook.code_dim, channels) if encoder is None else encoder
        code_shape = _code_shape(encoder, data_shape, codebook)
        if likelihood == "bernoulli":
            likelihood = Bernoulli(GridDecoder(codebook.code_dim, data_shape, channels), data_shape)
        elif likelihood == "gaussian":
            decoder = GridDecoder(codebook.code_dim, data_shape, channels, num_outputs=2)
            likelihood = Gaussian(decoder, data_shape, scale="decoder", mean="sigmoid")
        assert isinstance(likelihood, nn.Module)
        if isinstance(prior, str):
            make = IndependentCodes if prior == "independent" else AutoregressiveCodes
            prior = make(code_shape, codebook.num_codes)
        check_layer("prior", "z", result_of("prior", prior), code_shape, ())
        row = math.prod(code_shape) * codebook.code_dim
        check_layer("likelihood", "x", result_of("likelihood", likelihood, (row,)), data_shape)
        super().__init__(Model(prior, codebook, likelihood), Guide(encoder, codebook, float(commitment)), ("z",))

    @property
    def prior(self) -> nn.Module:
        """The module whose ``forward()`` returns the distribution of the codes."""
        return self.model.prior

    @property
    def encoder(self) -> nn.Module:
        """The network whose outputs choose the codes."""
        return self.guide.encoder

    @property
    def codebook(self) -> Codebook:
        """The codes' vectors, which model and guide share."""
        return self.model.codebook

    @checked
    @torch.no_grad()
    def codes(self, x: Array) -> Tensor:
        """Return the codes ``(B, *code_shape)``, integers, of data ``(B, *data_shape)``."""
        device, dtype = placement(self)
        x = as_tensor(x, "x").to(device, dtype)
        with evaluating(self), failing_on("x", x):
            codes: Tensor = self.codebook(self.encoder(x))
        return codes


def _code_shape(encoder: nn.Module, data_shape: tuple[int, ...], codebook: Codebook) -> tuple[int, ...]:
    """Return the encoder's grid shape. Raise ``ProgramError`` unless its vectors fit the codebook."""
    outputs: Any = result_of("encoder", encoder, data_shape)
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if isinstance(found, str) or len(found) < 3 or found[0] != 1 or found[-1] != codebook.code_dim:
        raise ProgramError(
            f"encoder: found an output of shape {found} for one datum, expected (1, *code_shape, {codebook.code_dim})"
        )
    return found[1:-1]


@checked
def perplexity(program: Annotated[VQVAE, "a VQVAE"], x: AnyData, *, batch_size: PositiveInteger = 100) -> float:
    r"""Return the effective number of codes in use: the exponential of the entropy of their frequencies.

    .. math:: \exp\Bigl(-\sum_k f_k \log f_k\Bigr)

    The frequencies are over all positions of the data ``(N, *data_shape)``, a tensor, a split or a loader. The result
    lies between 1 and K.

    Examples
    --------
    >>> vq = VQVAE((8, 8), num_codes=4, code_dim=2, channels=(4,))
    >>> 1 <= perplexity(vq, torch.zeros(10, 8, 8)) <= 4
    True
    """
    device, dtype = placement(program)
    counts = torch.zeros(program.codebook.num_codes, dtype=torch.float64, device=device)
    for batch in as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x"):
        counts += torch.bincount(program.codes(batch).flatten(), minlength=len(counts))
    frequencies = counts / counts.sum()
    return torch.special.entr(frequencies).sum().exp().item()
