r"""Data of which entries are missing: programs that see the observed ones alone.

Missing entries are integrated out of the likelihood, which takes nothing but leaving them out where entries are
independent given the latents,

.. math:: p(x_o|z) = \prod_{i\,\text{observed}} p(x_i|z), \qquad
          w_k = \frac{p(x_o|z_k)\, p(z_k)}{q(z_k|\iota(x_o))},

with zeros in :math:`\iota(x_o)` where x is missing. So every bound is one of log p(x_o). That is the MIWAE of Mattei
and Frellsen (another than the one of Rainforth et al., :class:`pyro_vae.MIWAE`). It is right for data that are missing
at random: for reasons that what is observed tells.

Data travel with their mask as one tensor, ``(B, 2, *data_shape)``, so that programs of one argument can be given both.
What was missing, :mod:`pyro_vae.evaluation.imputation` fills in.

Mattei and Frellsen, *MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets*, 2019.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.data.arrays import as_tensor
from pyro_vae.errors import ProgramError
from pyro_vae.inference.annealing import Annealed, bare
from pyro_vae.inference.handlers import ProgramWrapper, StochasticFunction
from pyro_vae.runtime.arguments import checked
from pyro_vae.runtime.objects import Arrays

__all__ = ["ObservedOnly", "check_mask", "observed_only", "pack", "unpack"]

_Numbers = Annotated[Any, Arrays("real numbers, dense and with their values, in an array or a list", lists=True)]


@checked
def pack(x: _Numbers, mask: _Numbers | None = None) -> Tensor:
    """Return data ``(N, *data_shape)`` and the mask of what is observed as one tensor, ``(N, 2, *data_shape)``.

    Missing entries become zeros, whatever they held. Data in half precision become float32.

    Parameters
    ----------
    x
        Data, with anything, NaN too, where they are missing.
    mask
        True where an entry is observed, of x's shape; by default where x is not NaN and, in an array of
        :mod:`numpy.ma`, not masked.

    Raises
    ------
    ValueError
        If the mask has another shape, or anything but True and False (1 and 0) in it; for a masked array beside a mask.

    Examples
    --------
    >>> pack(torch.tensor([[0.5, torch.nan]]))
    tensor([[[0.5000, 0.0000],
             [1.0000, 0.0000]]])
    """
    if isinstance(x, np.ma.MaskedArray):
        if mask is not None:
            raise ValueError("mask: found one beside a masked array, expected one of the two")
        x, mask = np.ma.getdata(x), ~np.ma.getmaskarray(x)
        mask = mask & ~np.isnan(x) if x.dtype.kind == "f" else mask
    x = as_tensor(x, "x")
    x = x.to(torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.get_default_dtype())
    mask = ~x.isnan() if mask is None else as_tensor(mask, "mask", x.device)
    if mask.shape != x.shape or x.dim() == 0:
        raise ValueError(f"mask: found the shape {tuple(mask.shape)}, expected that of x, {tuple(x.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"mask: found values from {mask.min().item()} to {mask.max().item()}, expected True and False")
    mask = mask.bool()
    return torch.stack([torch.where(mask, x, 0.0), mask.to(x)], 1)


def unpack(program: StochasticFunction, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a program is given, data ``(B, *data_shape)``, and which entries of them it sees, of the same shape."""
    if isinstance(bare(program), ObservedOnly):
        x, mask = x.unbind(1)
        return x, mask != 0
    return x, torch.ones_like(x, dtype=torch.bool)


def check_mask(packed: Tensor, name: str) -> None:
    """Raise ``ValueError`` unless the second slice of packed data ``(B, 2, *data_shape)`` is a mask of 0 and 1."""
    mask = packed[:, 1]
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"{name}: found values from {mask.min().item():g} to {mask.max().item():g} in the mask, {name}[:, 1], "
            "expected 0 and 1: pyro_vae.pack(x) puts data and their mask together"
        )


class _Mask(Messenger):
    """Leave the missing entries out of the densities of observed sites; ``mask`` is ``(B, *data_shape)``."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not site_is_subsample(msg) and not msg["infer"].get("_deterministic"):
            msg["fn"] = _masked(msg["name"], msg["fn"], self.mask)


def _masked(name: str, fn: Any, mask: Tensor) -> Any:
    """A distribution without the entries that are missing; a program may have put those of a datum into another shape.

    Entries that are not independent a distribution has to leave out itself, by a method ``masked``.
    """
    num_data, num_entries = len(mask), mask[0].numel()
    if fn.event_shape.numel() != num_entries or (fn.batch_shape and fn.batch_shape[-1] not in (1, num_data)):
        raise ProgramError(
            f"site {name!r}: found a distribution of batch shape {tuple(fn.batch_shape)} and event shape "
            f"{tuple(fn.event_shape)}, expected {num_data} data with an event of the {num_entries} entries that are "
            "masked"
        )
    mask = mask.reshape(num_data, *fn.event_shape)
    if hasattr(fn, "masked"):
        return fn.masked(mask)
    base = fn
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if base.event_shape:
        raise ProgramError(
            f"site {name!r}: found {type(base).__name__}, whose entries are not independent, expected a distribution "
            "of single entries with .to_event(n), or one that has a method masked(mask)"
        )
    return base.mask(mask).to_event(len(fn.event_shape))


class ObservedOnly(ProgramWrapper):
    """A program that is called with data and mask and sees the observed entries; made by :func:`observed_only`."""

    def forward(self, packed: Tensor) -> Any:
        if packed.dim() < 2 or packed.shape[1] != 2:
            raise ValueError(
                f"x: found the shape {tuple(packed.shape)}, expected (B, 2, *data_shape), data and mask as pack "
                "returns them"
            )
        x, mask = packed.unbind(1)  # (B, *data_shape) each
        with _Mask(mask != 0):
            return self.program(x)


@checked
def observed_only(model: StochasticFunction, guide: StochasticFunction) -> tuple[ObservedOnly, ObservedOnly]:
    r"""Let a pair take data of which entries are missing, packed with their mask by :func:`pack`.

    .. math:: \log w_k = \log p(x_o|z_k) + \log p(z_k) - \log q(z_k|\iota(x_o))

    The guide sees zeros where entries are missing, and these add nothing to the density of the observed site. All that
    takes a pair takes this one: ``fit`` and every bound, which are then those of the observed entries, and
    ``log_likelihood``, which estimates :math:`\log p(x_o)`. To anneal the pair, call :func:`pyro_vae.anneal_kl` on it
    afterwards.

    Parameters
    ----------
    model, guide
        A pair of programs. The observed site's distribution is of independent entries, such as
        ``Bernoulli(...).to_event(2)``, or has a method ``masked(mask)`` that returns it without the entries where the
        mask, ``(B, *event_shape)``, is false.

    Returns
    -------
    tuple
        The pair, with the parameters of the given one, which is the attribute ``program`` of the halves. A checkpoint
        of it is one of the given pair.

    Raises
    ------
    TypeError
        For a pair that is annealed.
    ProgramError
        When run, if the observed site cannot be masked; the message names it.
    ValueError
        When run, if the data are not packed.

    References
    ----------
    Mattei and Frellsen, *MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets*, 2019.

    Examples
    --------
    >>> import pyro_vae
    >>> vae = pyro_vae.VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> model, guide = observed_only(vae.model, vae.guide)
    >>> x = pack(torch.tensor([[0.0, 1.0, torch.nan, 1.0]]))
    >>> pyro_vae.IWAE(num_particles=5).bound(model, guide, x).shape
    torch.Size([1])
    """
    for name, program in (("model", model), ("guide", guide)):
        if isinstance(program, Annealed):
            raise TypeError(f"{name}: found an annealed program, expected anneal_kl(*observed_only(model, guide), ...)")
    return ObservedOnly(model), ObservedOnly(guide)
