r"""How much better a posterior could be, were it made for each datum alone.

An amortised guide gives every datum's posterior by one network. Between its bound and log p(x) lie two gaps (Cremer, Li
and Duvenaud, *Inference Suboptimality in Variational Autoencoders*, 2018): the family of distributions may not contain
the true posterior, and the network may not find the best of the family,

.. math:: \log p(x) - \mathcal{L}(x;\, q_\phi)
          = \underbrace{\log p(x) - \max_\lambda \mathcal{L}(x;\, q_\lambda)}_{\text{of the family}}
          + \underbrace{\max_\lambda \mathcal{L}(x;\, q_\lambda)
          - \mathcal{L}(x;\, q_\phi)}_{\text{of the amortisation}} .

The second is measured by going on from the network's answer with some steps of stochastic variational inference on
each datum's own parameters, :math:`\lambda_b = \phi(x_b) + \delta_b` (semi-amortised inference: Kim et al., 2018). The
first is measured against a richer family: the same distributions sent through a flow of each datum's own
(:mod:`pyro_vae.evaluation.couplings`).
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.data.arrays import as_tensor
from pyro_vae.data.batch import Arguments, Batch, tensors_in, with_tensors
from pyro_vae.data.conversion import as_batches
from pyro_vae.display import Result, ResultTable, rounded
from pyro_vae.errors import ProgramError, failing_on
from pyro_vae.evaluation.refined_guide import Family, RefinedGuide
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import weights_of
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.objectives import ELBO
from pyro_vae.runtime.arguments import PositiveNumber, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.objects import Arrays, Either, Instances
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["RefinedGuide", "Refinement", "differentiable", "improve", "refine"]


_OneOrMore = Annotated[int, Integers("an integer of 1 or more", 1)]
_ALL = 2**31 - 1  # data in a batch
Data = Annotated[
    Any,
    Either(
        "a tensor or an array of real numbers, dense and with their values, or a tuple or dict of these",
        (Arrays("an array"), Instances("several", (tuple, dict, Arguments))),
    ),
]


class _Refinement(NamedTuple):
    guide: RefinedGuide
    before: Tensor
    after: Tensor
    std_error: Tensor


class Refinement(Result, _Refinement):
    """The bounds of B data before and after, ``(B,)`` each, nats, with the standard errors of their differences."""

    def gap(self) -> float:
        """The mean amortisation gap of these data, as far as the steps have closed it; nats."""
        return (self.after - self.before).mean().item()

    def gap_error(self) -> float:
        """The Monte Carlo standard error of :meth:`gap`, for these very data; nats."""
        return self.std_error.square().sum().sqrt().item() / len(self.std_error)

    def _table(self) -> ResultTable:
        figure, error = rounded(self.gap(), self.gap_error())
        before, after = (rounded(bound.mean().item(), self.gap_error())[0] for bound in (self.before, self.after))
        rows = [("bound before", before, ""), ("bound after", after, ""), ("amortisation gap", figure, error)]
        return ResultTable(("", "nats per datum", "±"), rows, f"Refined posteriors of {len(self.before)} data")

    def _columns(self) -> dict[str, Any]:
        gains = self.after - self.before
        return {"before": self.before, "after": self.after, "gain": gains, "std_error": self.std_error}


@checked
@exclusive("refine")
@torch.inference_mode(False)
def refine(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: Data,
    num_steps: _OneOrMore = 100,
    *,
    family: Family = "own",
    lr: PositiveNumber = 0.01,
    num_particles: _OneOrMore = 10,
    eval_particles: Annotated[int, Integers("an integer of 2 or more", 2)] = 100,
    seed: Seed | None = 0,
    progress: bool = True,
) -> Refinement:
    r"""Improve the posterior of each datum by steps of its own, and tell what that gained.

    .. math:: \delta_b \leftarrow \delta_b + \eta\, \mathrm{Adam}\bigl(\nabla_{\delta_b}
              \mathcal{L}(x_b;\, q_{\phi(x_b) + \delta_b})\bigr)

    Model and guide stay as they are, and run in eval mode; annealing counts nowhere. The offsets are added to the
    parameters of each latent's distribution where these are unconstrained (to logarithms of scales, say). Of a flow
    they move the noise that it starts with; of a latent that is drawn given another one they are the same for all draws
    of that.

    Parameters
    ----------
    model, guide
        A pair of programs, whose latents are drawn by ``rsample``.
    x
        Data ``(B, *data_shape)``, or a tuple or dictionary of arrays for programs of several arguments. All are refined
        at once: B posteriors lie in memory.
    num_steps
        Steps of Adam, with the step size ``lr``.
    family
        ``"own"`` moves the parameters of the guide's distributions. ``"flow"`` sends these through a flow, too, that
        starts at the identity: affine couplings of the latent's units, which also see the latents drawn before. It is
        left out of a latent of a single unit that is drawn first.
    num_particles, eval_particles
        Draws a datum at each step, and for each of the two bounds that are compared, which have draws of their own.
    seed
        Of all draws.
    progress
        Show a progress bar.

    Raises
    ------
    ValueError
        If a number is not positive, the family unknown, or the data are not finite or outside the likelihood's support.
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
    model, guide = bare(model), bare(guide)
    programs = ProgramPair(model, guide)
    device, dtype = programs.placement(x)
    several = isinstance(x, (tuple, dict, Arguments))
    x = x if several else as_tensor(x, "x").to(device, dtype)
    batches = as_batches(x, _ALL, device=device, dtype=dtype, shuffle=False, name="x", programs=(model, guide))
    with seeded(seed, device), pyro.validation_enabled(False), evaluating(model, guide):
        check_program(programs, batches, name="x")
        batch = differentiable(next(iter(batches)))
        with failing_on("x", batch):
            refined = RefinedGuide(guide, batch, family)
        isolated = ProgramPair(model, refined, vectorize_particles="auto").isolated()
        if not refined.offsets():
            raise ProgramError("guide: found no latent, expected one or more to be refined")
        before, before_error = _bound(isolated, batch, eval_particles)
        improve(isolated, refined, batch, num_steps, lr=lr, num_particles=num_particles, progress=progress)
        after, after_error = _bound(isolated, batch, eval_particles)
    return Refinement(refined, before, after, (before_error**2 + after_error**2).sqrt())


def differentiable(x: Batch) -> Batch:
    """Return data that a graph may hold: those that were made in inference mode are copied, outside of it."""
    return with_tensors(x, [each.clone() if each.is_inference() else each for each in tensors_in(x)])


def improve(
    programs: ProgramPair,
    refined: RefinedGuide,
    x: Batch,
    num_steps: int,
    *,
    lr: float,
    num_particles: int,
    progress: bool = False,
) -> None:
    """Take steps of Adam on all that is refined, for the ELBO of an isolated pair, also under ``torch.no_grad()``."""
    optimizer = torch.optim.Adam(refined.offsets(), lr=lr)
    objective = ELBO(num_particles=num_particles)
    for _ in tqdm(range(num_steps), desc="refine", disable=not progress, leave=False):
        with torch.enable_grad():
            loss = objective.estimate(programs.model, programs.guide, x).loss
        for offset, gradient in zip(refined.offsets(), torch.autograd.grad(loss, refined.offsets()), strict=True):
            offset.grad = gradient
        optimizer.step()


@torch.no_grad()
def _bound(programs: ProgramPair, x: Batch, num_particles: int) -> tuple[Tensor, Tensor]:
    """Return the ELBO of each datum and its standard error, ``(B,)`` each."""
    log_w = weights_of(programs, x, num_particles)  # (K, B)
    return log_w.mean(0), log_w.std(0) / num_particles**0.5
