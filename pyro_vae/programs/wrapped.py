r"""Plain networks that were trained elsewhere, as a pair of programs.

A VAE in plain PyTorch is two networks and a loss. The encoder returns the mean and the log-variance of q(z|x), the
decoder what p(x|z) is made of, and the loss says which distribution is meant:

===================================================  ==================================================
loss of one datum, beside the KL                     what it stands for
===================================================  ==================================================
``binary_cross_entropy``, summed                     ``"bernoulli"``, ``decoder_output="probs"``
``binary_cross_entropy_with_logits``, summed         ``"bernoulli"``, ``decoder_output="logits"``
``mse_loss``, summed                                 ``"gaussian"``, ``scale=0.5**0.5``
``0.5 * mse_loss``, summed                           ``"gaussian"``, ``scale=1.0``
===================================================  ==================================================

The prior is the standard normal, so that

.. math:: \log w = \log \mathcal N(z; 0, I) + \log p(x|z) - \log \mathcal N\bigl(z; \mu(x), \sigma^2(x)\bigr) .

**Probabilities.** A probability near 1 has lost what a logit still knows: in float32 every logit above 17 gives 1.
Torch clips such probabilities by :math:`10^{-7}`, and its loss stops at -100. Both change the model. Here they are left
as they are: :math:`\log y` for white and ``log1p(-y)`` for black, which is exact for small y too. A pixel that the
decoder says is impossible makes a weight of 0. Where the network can return logits, let it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from pyro_vae.likelihoods import Bernoulli, Gaussian, Likelihood
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.parts import LikelihoodName
from pyro_vae.programs.plain_networks import (
    DecoderGaussian,
    PlainDecoder,
    PlainEncoder,
    ProbabilityBernoulli,
    SecondOutput,
    as_module,
)
from pyro_vae.programs.vae import VAE
from pyro_vae.runtime.arguments import DataShape, PositiveInteger, PositiveNumber, checked
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.objects import Callables
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["wrap"]

Network = Annotated[Callable[..., Any], "a module, or a method of one"]
MakeLikelihood = Annotated[
    Callable[..., nn.Module],
    Callables("a function of a network and a data shape, such as pyro_vae.Laplace", (nn.Module,)),
]


@checked
def wrap(
    encoder: Network,
    decoder: Network,
    latent_dim: PositiveInteger,
    likelihood: LikelihoodName | MakeLikelihood = "bernoulli",
    data_shape: DataShape | None = None,
    *,
    encoder_output: SecondOutput = "logvar",
    decoder_output: Literal["logits", "probs"] | None = None,
    scale: PositiveNumber | SecondOutput | None = None,
    flatten: bool | None = None,
) -> VAE:
    """Make a :class:`~pyro_vae.VAE` of a plain encoder and decoder, whose parameters stay their own.

    Both networks are run once, on two data of zeros and on some latents, in eval mode.

    Parameters
    ----------
    encoder
        From data ``(B, *data_shape)`` to two tensors ``(B, latent_dim)``, or to one of ``2 * latent_dim`` numbers a
        datum, the mean first. A module, or a method of one such as ``net.encode``.
    decoder
        From latents ``(B, latent_dim)`` to the shape of the data, flat or not. It never sees a dimension of particles.
    latent_dim
        The length of z.
    likelihood
        ``"bernoulli"``, ``"gaussian"``, or a likelihood of the package, called with a network and ``data_shape``:
        ``pyro_vae.Laplace``, or ``lambda network, shape: pyro_vae.Categorical(network, shape, 256)``.
    data_shape
        The shape of one datum; by default, that of the decoder's output.

    Other Parameters
    ----------------
    encoder_output
        The encoder's second output: ``"logvar"``, the log-variance, or ``"scale"``, the standard deviation.
    decoder_output
        Of ``"bernoulli"``: ``"logits"`` or ``"probs"``. ``None`` takes logits, and refuses outputs that all lie between
        0 and 1.
    scale
        Of ``"gaussian"``: the standard deviation of all entries, 1 by default; or ``"logvar"`` or ``"scale"``, where
        the decoder returns that as a second tensor, or as the second half of one.
    flatten
        Whether the encoder takes data ``(B, D)``. By default, that is found out.

    Raises
    ------
    TypeError
        If the encoder or the decoder is a function without a module.
    ValueError
        If a network fails, or returns something else; the message says what was found.

    Examples
    --------
    >>> encoder, decoder = nn.Linear(784, 2 * 8), nn.Linear(8, 784)
    >>> vae = wrap(encoder, decoder, latent_dim=8, data_shape=(28, 28))
    >>> vae.encode(torch.zeros(3, 28, 28)).shape, vae.sample(2).shape
    (torch.Size([3, 8]), torch.Size([2, 28, 28]))
    """
    for name, value, its in (("decoder_output", decoder_output, "bernoulli"), ("scale", scale, "gaussian")):
        if value is not None and likelihood != its:
            raise ValueError(f"{name}: found {value!r} with likelihood={likelihood!r}, expected likelihood={its!r}")
    adapter = PlainDecoder(as_module("decoder", decoder), latent_dim)
    output = adapter.outputs_for_draws()
    num_outputs = 2 if isinstance(scale, str) else 1
    shape = tuple(output.shape[num_outputs:]) if data_shape is None else tuple(map(int, data_shape))
    made = _likelihood(likelihood, adapter, shape, decoder_output, scale)
    adapter.output_shape = made.output_shape if isinstance(made, Likelihood) else shape
    adapter.checked(output)
    if likelihood == "bernoulli":
        _check_range(output, decoder_output)
    posterior = _posterior(as_module("encoder", encoder), latent_dim, encoder_output, shape, flatten)
    device, dtype = placement(decoder)
    return VAE(
        prior=StandardNormal(latent_dim).to(device, dtype), likelihood=made.to(device, dtype), posterior=posterior
    )


def _likelihood(
    likelihood: Any, network: nn.Module, shape: tuple[int, ...], decoder_output: str | None, scale: Any
) -> nn.Module:
    if likelihood == "bernoulli":
        return (ProbabilityBernoulli if decoder_output == "probs" else Bernoulli)(network, shape)
    if likelihood == "gaussian" and isinstance(scale, str):
        return DecoderGaussian(network, shape, scale)  # type: ignore[arg-type]
    if likelihood == "gaussian":
        gaussian = Gaussian(network, shape, scale="fixed")
        gaussian.fixed_scale = torch.tensor(1.0 if scale is None else float(scale), dtype=torch.float64)
        return gaussian
    made = likelihood(network, shape)
    if not isinstance(made, nn.Module):
        raise TypeError(f"likelihood: found one that makes {type(made).__name__}, expected a module")
    return made


def _posterior(
    encoder: nn.Module, latent_dim: int, second: str, shape: tuple[int, ...], flatten: bool | None
) -> nn.Module:
    """Return the first of two encoders, of data as they are and of flat data, that gives a posterior."""
    device, dtype = placement(encoder)
    found = []
    for flat in [False, True] if flatten is None and len(shape) != 1 else [bool(flatten)]:
        posterior = PlainEncoder(encoder, latent_dim, second, flat)
        x = torch.zeros(2, *shape, device=device, dtype=dtype)
        try:
            with torch.no_grad(), evaluating(encoder), seeded(0, device):
                posterior(x)
            return posterior
        except Exception as error:  # somebody's network can raise anything
            given = tuple(x.flatten(1).shape if flat else x.shape)
            found.append(f"on data of shape {given}: {error}")
    raise ValueError(f"encoder: {'; '.join(found)}" + "; see latent_dim, data_shape and flatten" * (flatten is None))


def _check_range(output: Tensor, decoder_output: str | None) -> None:
    is_inside = bool(((output >= 0) & (output <= 1)).all())
    if decoder_output is None and is_inside:
        raise ValueError(
            "decoder_output: found outputs of the decoder that all lie between 0 and 1, expected 'probs', or 'logits' "
            "if that is what they are"
        )
    if decoder_output == "probs" and not is_inside:
        raise ValueError(
            f"decoder: found outputs from {output.min():.3g} to {output.max():.3g}, expected probabilities, or "
            "decoder_output='logits'"
        )
