r"""The gradient of a draw from a mixture of Gaussians, by all parameters, the weights included.

A draw has no formula that is smooth in the weights, since its component is chosen. But a field of velocities :math:`v`
moves probability as a parameter :math:`\theta` does, if both change the density alike,

.. math:: \frac{\partial q}{\partial\theta} + \nabla \cdot (q v) = 0, \qquad \text{and then} \qquad
          \frac{\partial}{\partial\theta}\, \mathbb{E}_q[f] = \mathbb{E}_q\bigl[v \cdot \nabla f\bigr] .

For :math:`\mu_{ji}` it is :math:`\pi_j N_j / q`, for :math:`\sigma_{ji}` that times :math:`(z_i - \mu_{ji}) /
\sigma_{ji}`, in direction i. A logit changes q by :math:`\partial q / \partial \ell_c = \pi_c \sum_d \pi_d (N_c -
N_d)`. So probability goes from :math:`N_d` to :math:`N_c`, in three parts, all with the narrowest scales
:math:`s_i = \min_j \sigma_{ji}` on the way. With :math:`N'_j = \mathcal{N}(\mu_j, \mathrm{diag}\, s^2)`,

.. math::

   N_c - N_d = (N_c - N'_c) + (N'_c - N'_d) - (N_d - N'_d) .

*From narrow to wide*, one direction after the other. The field with :math:`\nabla \cdot (q A_j) = -(N_j - N'_j)` is

.. math:: q A_{ji} = -\prod_{k<i} N_{jk} \Bigl[\Phi\Bigl(\frac{z_i - \mu_{ji}}{\sigma_{ji}}\Bigr)
                     - \Phi\Bigl(\frac{z_i - \mu_{ji}}{s_i}\Bigr)\Bigr] \prod_{k>i} N'_{jk},

since its derivative by :math:`z_i` puts :math:`N_{ji} - N'_{ji}` in the place of the bracket, and the sum over i
telescopes.

*From mean to mean*, along the line. Put :math:`y = z / s`, :math:`m_j = \mu_j / s`, :math:`u` for the unit vector of
:math:`m_c - m_d`, and :math:`y - m_c = a u + r` with :math:`r \perp u`. Both Gaussians have the same density of r, for
:math:`m_c - m_d` has no part across the line. With :math:`b = u \cdot (y - m_d)`, the field with :math:`\nabla \cdot
(q L_{cd}) = -(N'_c - N'_d)` is

.. math:: q L_{cd} = -\frac{s u}{\prod_i s_i}\, \frac{e^{-|r|^2/2}}{(2\pi)^{(D-1)/2}}
                     \bigl[\Phi(a) - \Phi(b)\bigr], \qquad L_{dc} = -L_{cd} .

The velocity of logit c is :math:`\pi_c \bigl(A_c - \sum_d \pi_d A_d + \sum_d \pi_d L_{cd}\bigr)`. Where two means are
equal, L is zero. All quotients by q are bounded in the tails, as s is the narrowest scale.

Jankowiak and Obermeyer, *Pathwise Derivatives Beyond the Reparameterization Trick*, 2018; Jankowiak and Karaletsos,
*Pathwise Derivatives for Multivariate Distributions*, 2019.
"""

# PITFALL: the backward of Pyro 1.9.2's own MixtureOfDiagNormals takes for r the part across the line of z, and not of
# z - μ_c, and has no s in L. So its gradient by the logits changes with the origin, and is right where the line of any
# two means passes through it and the narrowest scales are 1.

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

__all__ = ["MixtureDraw", "gradient_by_logits"]

_LOG_2PI = math.log(2 * math.pi)


class MixtureDraw(Function):
    """A draw from given components, with the gradients of this module.

    The arguments are μ and σ ``(*batch, M, D)``, logits ``(*batch, M)``, the component of each draw ``(*sample,
    *batch)`` and standard normal noise ``(*sample, *batch, D)``.
    """

    @staticmethod
    def forward(ctx: Any, loc: Tensor, scale: Tensor, logits: Tensor, which: Tensor, noise: Tensor) -> Tensor:
        r"""Return the draws :math:`\mu_c + \sigma_c\, \epsilon` of the given components, ``(*sample, *batch, D)``."""
        chosen = which[..., None, None].expand(*noise.shape[:-1], 1, noise.shape[-1])
        shape = (*noise.shape[:-1], *loc.shape[-2:])
        mean, sigma = (values.expand(shape).gather(-2, chosen).squeeze(-2) for values in (loc, scale))
        z = mean + sigma * noise
        ctx.save_for_backward(z, loc, scale, logits)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by all parameters from those by the draws."""
        z, loc, scale, logits = ctx.saved_tensors
        noise = (z.unsqueeze(-2) - loc) / scale  # (*sample, *batch, M, D)
        log_joint = logits.log_softmax(-1) + _log_normal(noise, scale).sum(-1)
        by_loc = log_joint.softmax(-1).unsqueeze(-1) * g.unsqueeze(-2)
        by_logits = gradient_by_logits(z, g, loc, scale, logits) if ctx.needs_input_grad[2] else None
        return (
            by_loc.sum_to_size(loc.shape),
            (by_loc * noise).sum_to_size(scale.shape),
            None if by_logits is None else by_logits.sum_to_size(logits.shape),
            None,
            None,
        )


def gradient_by_logits(z: Tensor, g: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    r"""Return :math:`v_c(z) \cdot g` of each draw z and logit c, see the module.

    Draws z and gradients g are ``(*sample, *batch, D)``, μ and σ ``(*batch, M, D)`` and the logits ``(*batch, M)``. The
    result is ``(*sample, *batch, M)``.
    """
    log_pi = logits.log_softmax(-1)
    narrow = scale.amin(-2, keepdim=True)  # (*batch, 1, D)
    away = z.unsqueeze(-2) - loc  # (*sample, *batch, M, D)
    wide_noise, narrow_noise = away / scale, away / narrow
    log_wide, log_narrow = _log_normal(wide_noise, scale), _log_normal(narrow_noise, narrow)
    log_q = (log_pi + log_wide.sum(-1)).logsumexp(-1)[..., None]  # (*sample, *batch, 1)

    # All products are of exponents, since densities of many dimensions are no numbers of float32.
    before = pad(log_wide[..., :-1], (1, 0)).cumsum(-1)
    behind = pad(log_narrow[..., 1:].flip(-1), (1, 0)).cumsum(-1).flip(-1)
    sign, log_bracket = _log_between(wide_noise, narrow_noise)
    exponent = (log_pi - log_q).unsqueeze(-1) + before + behind + log_bracket
    to_wide = -(sign * exponent.exp() * g.unsqueeze(-2)).sum(-1)  # π_j A_j·g: (*sample, *batch, M)

    first, second = torch.triu_indices(loc.shape[-2], loc.shape[-2], 1, device=loc.device)  # each pair c < d once
    line = (loc[..., first, :] - loc[..., second, :]) / narrow  # (*batch, P, D)
    length = line.norm(dim=-1, keepdim=True)
    u = line / length.clamp(min=torch.finfo(line.dtype).tiny)
    y = narrow_noise[..., first, :]  # y - m_c
    a = (y * u).sum(-1)  # (*sample, *batch, P)
    across = _LOG_2PI / 2 + _log_normal(y - a.unsqueeze(-1) * u, narrow).sum(-1)
    sign, log_bracket = _log_between(a, a + length.squeeze(-1))
    exponent = log_pi[..., first] + log_pi[..., second] - log_q + across + log_bracket
    along = -sign * exponent.exp() * (g.unsqueeze(-2) * narrow * u).sum(-1)  # π_c π_d L_cd·g
    from_first = torch.zeros_like(to_wide).index_add(-1, first, along)
    return to_wide - log_pi.exp() * to_wide.sum(-1, keepdim=True) + from_first.index_add(-1, second, -along)


def _log_normal(noise: Tensor, scale: Tensor) -> Tensor:
    """Return the log density of a Gaussian by its noise."""
    return -0.5 * (noise.square() + _LOG_2PI) - scale.log()


def _log_between(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sign and the logarithm of the absolute value of Φ(a) - Φ(b), exact in both tails."""
    sign = (a - b).sign()
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    is_right = low + high > 0
    low, high = torch.where(is_right, -high, low), torch.where(is_right, -low, high)
    log_high = torch.special.log_ndtr(high)
    ratio = -torch.expm1(torch.special.log_ndtr(low) - log_high)  # of the difference to Φ(high)
    return sign, log_high + ratio.log()
