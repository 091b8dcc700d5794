r"""How much better a posterior could be, were it made for each datum alone.

An amortised guide gives every datum's posterior by one network. Between its bound and log p(x) lie two gaps (Cremer, Li
and Duvenaud, *Inference Suboptimality in Variational Autoencoders*, 2018): the family of distributions may not contain
the true posterior, and the network may not find the best of the family,

.. math:: \log p(x) - \mathcal{L}(x;\, q_\phi)
          = \underbrace{\log p(x) - \max_\lambda \mathcal{L}(x;\, q_\lambda)}_{\text{of the family}}
          + \underbrace{\max_\lambda \mathcal{L}(x;\, q_\lambda)
          - \mathcal{L}(x;\, q_\phi)}_{\text{of the amortisation}} .

The second is measured by going on from the network's answer with some steps of stochastic variational inference on
each datum's own parameters, :math:`\lambda_b = \phi(x_b) + \delta_b` (semi-amortised inference: Kim et al., 2018).
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import transform_to
from tqdm.auto import tqdm

from pyro_vae.data.arrays import as_tensor
from pyro_vae.data.conversion import as_batches
from pyro_vae.errors import ProgramError, failing_on
from pyro_vae.flows import FlowDistribution
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import weights_of
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.objectives import ELBO
from pyro_vae.runtime.arguments import Array, PositiveNumber, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["RefinedGuide", "Refinement", "refine"]


_OneOrMore = Annotated[int, Integers("an integer of 1 or more", 1)]


class Refinement(NamedTuple):
    """The bounds of B data before and after, ``(B,)`` each, nats, with the standard errors of their differences."""

    guide: RefinedGuide
    before: Tensor
    after: Tensor
    std_error: Tensor

    def gap(self) -> float:
        """The mean amortisation gap of these data, as far as the steps have closed it; nats."""
        return (self.after - self.before).mean().item()

    def gap_error(self) -> float:
        """The Monte Carlo standard error of :meth:`gap`, for these very data; nats."""
        return self.std_error.square().sum().sqrt().item() / len(self.std_error)


@checked
@exclusive("refine")
def refine(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: Array,
    num_steps: _OneOrMore = 100,
    *,
    lr: PositiveNumber = 0.01,
    num_particles: _OneOrMore = 10,
    eval_particles: Annotated[int, Integers("an integer of 2 or more", 2)] = 100,
    seed: Seed | None = 0,
    progress: bool = True,
) -> Refinement:
    r"""Improve the posterior of each datum by steps of its own, and tell what that gained.

    .. math:: \delta_b \leftarrow \delta_b + \eta\, \mathrm{Adam}\bigl(\nabla_{\delta_b}
              \mathcal{L}(x_b;\, q_{\phi(x_b) + \delta_b})\bigr)

    Model and guide stay as they are, and run in eval mode. The offsets are added to the parameters of each latent's
    distribution where these are unconstrained (to logarithms of scales, say). Of a flow they move the noise that it
    starts with; of a latent that is drawn given another one they are the same for all draws of that.

    Parameters
    ----------
    model, guide
        A pair of programs, whose latents are drawn by ``rsample``.
    x
        Data ``(B, *data_shape)``, all refined at once: B posteriors lie in memory.
    num_steps
        Steps of Adam, with the step size ``lr``.
    num_particles, eval_particles
        Draws a datum at each step, and for each of the two bounds that are compared, which have draws of their own.
    seed
        Of all draws.
    progress
        Show a progress bar.

    Raises
    ------
    ValueError
        If a number is not positive, or the data are not finite or outside the likelihood's support.
    ProgramError
        If the two do not form a pair, or a latent's distribution cannot be moved: it is discrete, say.

    References
    ----------
    Cremer, Li and Duvenaud, *Inference Suboptimality in Variational Autoencoders*, 2018.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> refinement = refine(vae.model, vae.guide, torch.zeros(3, 4), num_steps=5, progress=False)
    >>> refinement.after.shape, refinement.gap() > -0.1
    (torch.Size([3]), True)
    """
    programs = ProgramPair(model, guide)
    device, dtype = programs.placement()
    x = as_tensor(x, "x").to(device, dtype)
    batches = as_batches(x, max(len(x), 1), device=device, dtype=dtype, shuffle=False, name="x")
    with seeded(seed, device), pyro.validation_enabled(False), evaluating(model, guide):
        check_program(programs, batches, name="x")
        with failing_on("x", x):
            refined = RefinedGuide(guide, x)
        isolated = ProgramPair(model, refined).isolated()
        if not refined.offsets():
            raise ProgramError("guide: found no latent, expected one or more to be refined")
        before, before_error = _bound(isolated, x, eval_particles)
        optimizer = torch.optim.Adam(refined.offsets(), lr=lr)
        objective = ELBO(num_particles=num_particles)
        for _ in tqdm(range(num_steps), desc="refine", disable=not progress):
            loss = objective.estimate(isolated.model, isolated.guide, x).loss
            for offset, gradient in zip(refined.offsets(), torch.autograd.grad(loss, refined.offsets()), strict=True):
                offset.grad = gradient
            optimizer.step()
        after, after_error = _bound(isolated, x, eval_particles)
    return Refinement(refined, before, after, (before_error**2 + after_error**2).sqrt())


@torch.no_grad()
def _bound(programs: ProgramPair, x: Tensor, num_particles: int) -> tuple[Tensor, Tensor]:
    """Return the ELBO of each datum and its standard error, ``(B,)`` each."""
    log_w = weights_of(programs, x, num_particles)  # (K, B)
    return log_w.mean(0), log_w.std(0) / num_particles**0.5


class RefinedGuide:
    """A guide whose distributions are moved by an offset for each of the data it was made for, and takes only these."""

    def __init__(self, guide: StochasticFunction, x: Tensor) -> None:
        self.__wrapped__ = guide
        self._offsets: dict[str, dict[str, Tensor]] = {}
        self._x = x
        with torch.no_grad():
            isolated(self)(x)  # its sites tell what there is to move

    def __call__(self, x: Tensor) -> Any:
        if x.shape != self._x.shape:
            raise ValueError(f"x: found the shape {tuple(x.shape)}, expected the data it was made for, {self._x.shape}")
        with _Move(self._offsets):
            return self.__wrapped__(x)

    def offsets(self) -> list[Tensor]:
        """All the offsets, leaves with a gradient."""
        return [offset for named in self._offsets.values() for offset in named.values()]


class _Move(Messenger):
    """Move the distribution of each latent; at first sight of one, by zeros, which are kept."""

    def __init__(self, offsets: dict[str, dict[str, Tensor]]) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        fn = msg["fn"]
        if not fn.has_rsample:
            raise ProgramError(f"site {msg['name']!r}: found {fn}, expected a distribution with rsample, to be refined")
        msg["fn"] = _moved(fn, self.offsets.setdefault(msg["name"], {}))


def _moved(fn: Any, offsets: dict[str, Tensor]) -> Any:
    if isinstance(fn, FlowDistribution):
        return FlowDistribution(_moved(fn.base, offsets), fn.transform)
    if isinstance(fn, torch.distributions.Independent):
        return _moved(fn.base_dist, offsets).to_event(fn.reinterpreted_batch_ndims)
    parameters = {}
    for name, constraint in fn.arg_constraints.items():
        if name in vars(fn):  # of several ways to give the same, the one that was used
            transform, value = transform_to(constraint), vars(fn)[name]
            unconstrained = transform.inv(value)
            if name not in offsets:
                offsets[name] = torch.zeros_like(unconstrained).requires_grad_()
            parameters[name] = transform(unconstrained + offsets[name])
    return type(fn)(**parameters)
