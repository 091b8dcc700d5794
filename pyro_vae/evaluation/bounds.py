r"""The mean of an objective's bound over data.

.. math:: \frac1N \sum_n \mathcal{L}(x_n)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.compilation.compiled import Outputs
from pyro_vae.data.batch import Batch, call
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.shared_work import SharedWork, reseed
from pyro_vae.data.shares import Part, check_order, share_generators
from pyro_vae.errors import failing_on
from pyro_vae.inference.annealing import Annealed, bare
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.subsampling import Around, around_batches, as_it_is
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.objective import AnyObjective, Objective
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, Seed, checked
from pyro_vae.runtime.batch_sums import sharing
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.ranks import ranks
from pyro_vae.runtime.state import evaluating, seeded

__all__ = [
    "mean_bound",
    "mean_estimate",
    "summed_bounds",
]


@checked
@exclusive("mean_bound", shared=True)
@torch.no_grad()
def mean_bound(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: AnyData,
    objective: AnyObjective,
    *,
    batch_size: PositiveInteger = 100,
    seed: Seed | None = None,
) -> float:
    """Return the mean of an objective's true bound over data ``(N, *data_shape)``, in eval mode, nats per datum.

    Annealing, free bits and a capacity are left out of it. A Pyro ELBO serves as well as one of this package's
    objectives; its bound is minus its loss per datum.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair.
    ValueError
        If the data are empty, not finite, or outside the support of an observed site.
    """
    own = objective if isinstance(objective, Objective) else None
    programs = ProgramPair(model, guide) if own is None else own.pair_of(model, guide)
    run = programs if own is None else own.programs_to_check(programs)
    device, dtype = programs.placement(x)
    batches = as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name="x", programs=(model, guide))
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(model, guide):
        pairs: list[PairTrace] = []
        check_program(run, batches, name="x", enumerated=own is None, each_datum=False, check_pair=pairs.append)
    around = around_batches(pairs[0], batches.num_data)
    summed = summed_bounds(model, guide, objective, around)
    own_ranks = ranks()
    if own_ranks.size > 1:
        seed = SharedWork(batches, seed, (model, guide), objective=objective).seed  # for draws of each rank's own
    return mean_estimate(model, guide, batches.shared(own_ranks), objective, seed=seed, summed=summed)[0]


@torch.no_grad()
def mean_estimate(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: Any,
    objective: Any,
    *,
    batch_size: int = 100,
    seed: int | None = None,
    summed: Callable[[Batch], Outputs] | None = None,
    name: str = "x",
) -> tuple[float, float]:
    """Return :func:`mean_bound`, and the mean of what the objective maximises: the same but for what weighs the KL.

    ``summed`` is :func:`summed_bounds` of the three, or that compiled; ``name`` is what messages call the data.

    Raises
    ------
    ValueError
        If there are no data.
    """
    device, dtype = placement(model, guide, data=x)
    batches = as_batches(x, batch_size, device=device, dtype=dtype, shuffle=False, name=name, programs=(model, guide))
    total, count = torch.zeros(2, dtype=torch.float64, device=device), 0
    summed = summed_bounds(model, guide, objective) if summed is None else summed
    share_generators(batches._source, batches.ranks)
    apart = None
    if seed is not None and not batches.ranks.is_first:
        apart = functools.partial(reseed, seed, batches.ranks.rank, device=device)
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(model, guide):
        for pick in batches.picks(apart):
            batch = batches.read(pick)
            size = pick.num_data if isinstance(pick, Part) else len(batch)
            with failing_on(name, batch), sharing(batches.ranks, size):
                (bounds,) = summed(batch)
            if size:
                total += bounds
                count += size
    check_order(batches._loader, name, batches.ranks)
    total, count = batches.ranks.sum_(total), int(batches.ranks.table([count]).sum())
    if count == 0:
        raise ValueError(f"{name}: found no data, expected one datum or more at each pass through them")
    true_bound, bound = (total / count).tolist()
    return true_bound, bound


def summed_bounds(
    model: StochasticFunction, guide: StochasticFunction, objective: Any, around: Around = as_it_is
) -> Callable[[Batch], list[Tensor]]:
    """Return a function from a batch to the sums of its bounds, in one tensor: the true one, and what is maximised.

    ``around`` says what stands around the runs, see :mod:`pyro_vae.inference.subsampling`.
    """
    own = ProgramPair(model, guide).isolated()
    plain = ProgramPair(bare(model), bare(guide)).isolated()

    def summed(x: Batch) -> list[Tensor]:
        with around(x):
            return sums(x)

    def sums(x: Batch) -> list[Tensor]:
        if isinstance(objective, Objective):
            return [objective.estimate(own.model, own.guide, x).sums()]
        true = weighed = -call(functools.partial(objective.loss, own.model, own.guide), x)
        if isinstance(model, Annealed) or isinstance(guide, Annealed):
            true = -call(functools.partial(objective.loss, plain.model, plain.guide), x)
        in_batch = len(x) / around.num_in_loss(x)
        return [in_batch * torch.tensor([true, weighed], dtype=torch.float64, device=x.device)]

    return summed
