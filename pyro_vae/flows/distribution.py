"""The distribution of transformed noise."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

__all__ = ["AnyFlow", "FlowDistribution", "check_flow", "flow_distribution", "forget"]

_NO_INVERSE = "value: found one that was not drawn here, expected a draw, as the transform has no inverse"


class FlowDistribution(dist.TorchDistribution):
    r"""The distribution of noise under a transform; a draw and its density take one pass.

    .. math:: \log p(z) = \log p_0\bigl(f^{-1}(z)\bigr) - \log \Bigl|\det \frac{\partial f}{\partial \epsilon}\Bigr|

    The density of the last draw is stored with it. That of any other tensor, even an equal one, is computed through the
    inverse with the current parameters. A transform without an inverse, such as a planar one, can only score draws of a
    distribution with the same parameters that :meth:`hand_on` returned together with their noise. The inverse is then
    needed for the gradient alone, and to first order,

    .. math:: f^{-1}(z) \approx \epsilon + J^{-1} (z - f(\epsilon)), \qquad J = \frac{\partial f}{\partial \epsilon} .

    Parameters
    ----------
    base
        The distribution of the noise, with one event dimension.
    transform
        The map f from noise to z, a :class:`torch.distributions.Transform` between vectors.

    Raises
    ------
    NotImplementedError
        By ``log_prob``, if the transform has no inverse and the noise is not known.

    Examples
    --------
    >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    >>> twice = FlowDistribution(base, torch.distributions.transforms.AffineTransform(0.0, 2.0, event_dim=1))
    >>> z = twice.rsample((3,))
    >>> torch.allclose(twice.log_prob(z), dist.Normal(torch.zeros(2), 2.0).to_event(1).log_prob(z))
    True
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: Any, transform: Transform, validate_args: bool | None = None) -> None:
        self.base, self.transform = base, transform
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None  # the last draw, its log-density and its noise
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        return FlowDistribution(self.base.expand(torch.Size(batch_shape)), self.transform, self._validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = self.base.rsample(torch.Size(sample_shape))  # (*sample_shape, *batch_shape, D)
        z, log_det = _call(self.transform, noise)
        self._drawn = z, self.base.log_prob(noise) - log_det, noise
        return z

    def hand_on(self, z: Tensor) -> Tensor:
        """Return a draw as a new tensor; if it is the last draw, its noise goes with it, as a constant."""
        again: Any = z.view_as(z)
        if self._drawn is not None and z is self._drawn[0]:
            again.noise = self._drawn[2].detach()
        return cast(Tensor, again)

    def moved(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image of noise and the log-determinant of the transform there."""
        return _call(self.transform, noise)

    def noise_of(self, value: Tensor) -> Tensor:
        """Return the noise whose image a value is.

        Raises
        ------
        NotImplementedError
            If the transform has no inverse, and the value is not the last draw.
        """
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[2]
        try:
            return _call(self.transform.inv, value)[0]
        except KeyError as error:
            raise NotImplementedError(_NO_INVERSE) from error

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        if self._validate_args:
            self._validate_sample(value)
        known = getattr(value, "noise", None)
        value = value.expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape) + self.event_shape)
        try:
            noise, log_det = _call(self.transform.inv, value)
        except KeyError as error:  # how Pyro reports a transform without an inverse
            if known is None:
                raise NotImplementedError(_NO_INVERSE) from error
            noise = known + self._solved(known, value - value.detach())
            log_det = -_call(self.transform, noise)[1]
        return self.base.log_prob(noise) + log_det

    def _solved(self, noise: Tensor, change: Tensor) -> Tensor:
        """Return the change of the noise for a change of z to first order, as the solution of a linear system."""
        with torch.enable_grad():
            noise = noise.detach().requires_grad_()
            z = _call(self.transform, noise)[0]
            rows = [torch.autograd.grad(each.sum(), noise, retain_graph=True)[0] for each in z.unbind(-1)]
        jacobian = torch.stack(rows, -2).detach()  # (*batch, D, D)
        return torch.linalg.solve(jacobian, change[..., None])[..., 0]

    @property
    def center(self) -> Tensor:
        """The image of the mean of the noise; the mean of z has no formula."""
        return _call(self.transform, self.base.mean)[0]


def _call(transform: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a transform's value and log-determinant, ``(*batch,)``, and clear its caches."""
    if hasattr(transform, "call_and_ladj"):  # Zuko's
        y, log_det = transform.call_and_ladj(x)
    else:
        y = transform(x)
        log_det = transform.log_abs_det_jacobian(x, y)
    forget(transform)
    return y, log_det


def forget(transform: Any) -> None:
    """Clear the caches of Pyro's transforms, which would keep the tensors of the last call and their graph."""
    if isinstance(transform, torch.distributions.transforms._InverseTransform):
        transform = transform.inv
    for part in getattr(transform, "transforms", []):
        forget(part)
    for name in [name for name in vars(transform) if name.startswith("_cached")]:
        setattr(transform, name, (None, None) if name == "_cached_x_y" else None)


AnyFlow = Annotated[nn.Module, "a Flow, or a flow of Zuko"]


def check_flow(flow: Any) -> None:
    """Raise ``TypeError`` unless a module has a transform and a base to call."""
    if not isinstance(flow, nn.Module) or not all(
        callable(getattr(flow, name, None)) for name in ("transform", "base")
    ):
        raise TypeError(f"flow: found {type(flow).__name__}, expected a Flow, or a flow of Zuko")


def flow_distribution(flow: Any, context: Tensor | None, cheap: Literal["draws", "scores"]) -> FlowDistribution:
    """Return the distribution of a flow under a context, with the cheap direction for draws or for scores.

    ``flow`` has a ``transform`` and a ``base``, like :class:`Flow` and Zuko's flows. Both are called with the context,
    ``(*batch, context_dim)`` or ``None``, and return a transform and a distribution.
    """
    transform, base = flow.transform(context), flow.base(context)
    if context is not None:
        base = base.expand(context.shape[:-1])
    return FlowDistribution(base, transform if cheap == "draws" else transform.inv)
