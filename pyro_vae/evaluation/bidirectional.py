r"""A sandwich around log p(x), by bidirectional Monte Carlo (BDMC).

Annealed importance sampling from the guide gives a lower bound of log p(x) in expectation. Run backwards from an exact
draw of the posterior, it gives 1/p(x) without bias, hence an upper bound:

.. math:: \mathbb{E}\Bigl[\log \frac1K \sum_k W_k\Bigr] \;\le\; \log p(x) \;\le\;
          \mathbb{E}\Bigl[-\log \frac1K \sum_k W'_k\Bigr],
          \qquad \mathbb{E}[W_k] = p(x), \quad \mathbb{E}[W'_k] = \frac{1}{p(x)} .

An exact draw is at hand for data that the model itself has simulated, :math:`z \sim p(z), x \sim p(x|z)`: it is the z
that x came from. So the sandwich holds for simulated data, and says how far annealed runs of the same length are from
the truth there. For real data only the lower bound can be had, which is :func:`pyro_vae.ais`.

Grosse, Ghahramani and Adams, *Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo*, 2015; Wu, Burda,
Salakhutdinov and Grosse, *On the Quantitative Analysis of Decoder-Based Generative Models*, 2017.
"""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.compilation.compiled import Compile
from pyro_vae.data.batch import Batch
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.held import joined
from pyro_vae.evaluation.annealed_importance import Start, pair_from
from pyro_vae.evaluation.annealer import Annealer, Annealing, batch_size_for
from pyro_vae.evaluation.estimates import LogLikelihood, num_dims_of
from pyro_vae.evaluation.sandwiches import Sandwich
from pyro_vae.evaluation.temperatures import Schedule
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.checks import run_to_check
from pyro_vae.inference.global_means import refuse_global_means
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.simulation import simulated
from pyro_vae.programs.labelled import LabelledModel
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.precision import precise
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["Sandwich", "sandwich"]


@checked
@exclusive("sandwich")
@torch.inference_mode(False)  # in which no gradient could be had
@torch.no_grad()
def sandwich(
    model: StochasticFunction,
    guide: StochasticFunction,
    num_data: PositiveInteger = 100,
    num_chains: PositiveInteger = 16,
    num_temperatures: PositiveInteger = 500,
    *,
    x: AnyData | None = None,
    start: Start = "guide",
    schedule: Schedule = "linear",
    num_leapfrog_steps: PositiveInteger = 3,
    compile: Compile = "auto",
    seed: Seed | None = None,
    progress: bool = False,
) -> Sandwich:
    r"""Bound log p(x) from below and above, on data that the model simulates.

    .. math:: z \sim p(z), \quad x \sim p(x|z), \qquad
              \log \frac1K \sum_k W_k \;\lesssim\; \log p(x) \;\lesssim\; -\log \frac1K \sum_k W'_k

    The two bounds hold in expectation. Both directions take the same moves as :func:`pyro_vae.ais` with the same
    arguments, so the gap tells how far its estimates are off, if real data are like simulated ones.

    Parameters
    ----------
    model, guide
        A pair of programs.
    num_data
        The number N of data to simulate; with ``x``, at most as many as these.
    num_chains, num_temperatures, start, schedule, num_leapfrog_steps, compile, seed, progress
        As in :func:`pyro_vae.ais`.
    x
        Data that say what form simulated ones have, and that hold what a model conditions on, such as labels. A
        program of this package needs none if it takes data alone.

    Raises
    ------
    ProgramError
        As in :func:`pyro_vae.ais`, and if data cannot be simulated: a site observes neither all data nor one whole
        argument, or is a factor, or the guide has no noise for the model's latents.
    ValueError
        For an argument outside of its range, or without ``x`` if the model does not tell the shape of its data.

    References
    ----------
    Grosse, Ghahramani and Adams, *Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo*, 2015.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> bounds = sandwich(vae.model, vae.guide, num_data=20, num_temperatures=20, seed=0)
    >>> bounds.gaps.shape, abs(bounds.gap) < 5 * bounds.gap_error
    (torch.Size([20]), True)
    """
    refuse_global_means(model, "simulate data")
    programs = pair_from(start, model, guide)
    device, dtype = programs.placement()
    form = _form_of(model, num_data, dtype) if x is None else x
    batches = as_batches(
        form, batch_size_for(form, num_chains, device), device=device, dtype=dtype, shuffle=False, name="x",
        programs=(model, guide),
    )  # fmt: skip
    annealing = Annealing(num_chains, num_temperatures, schedule, num_leapfrog_steps)
    drawn: list[tuple[Batch, poutine.Trace]] = []
    below: list[LogLikelihood] = []
    above: list[LogLikelihood] = []
    num_dims = 0.0  # summed over the data
    with (
        pyro.validation_enabled(False),
        seeded(seed, device),
        evaluating(model, guide),
        precise("highest", device),
        tqdm(desc="sandwich", unit="move", disable=not progress, leave=False, smoothing=0.05) as bar,
    ):
        for batch in batches:
            batch = batch[: num_data - sum(len(data) for data, _ in drawn)]
            if len(batch) == 0:
                break
            drawn.append(_simulated(programs.isolated(), batch))
        annealer = Annealer(programs, drawn[0][0], annealing, compile=compile, num_data=num_data, progress=progress)
        bar.total = len(drawn) * annealer.num_ticks(2)
        for data, latents in drawn:
            noise = annealer.space.noise_of(data, latents)
            step_sizes = annealer.pilot(data, bar.update)
            below.append(annealer.forwards(data, step_sizes, bar.update))
            above.append(annealer.backwards(data, noise, step_sizes, bar.update))
            num_dims += num_dims_of(programs, data)
    forwards, backwards = (LogLikelihood.joined(each, num_dims) for each in (below, above))
    return Sandwich(forwards, backwards, joined([data for data, _ in drawn]))


def _simulated(programs: ProgramPair, x: Batch) -> tuple[Batch, poutine.Trace]:
    """Return data of the form of a batch, and the run of the model that drew them."""
    pair = run_to_check(lambda: trace_pair(programs, x), programs, x, "x")
    return simulated(programs.model, x, {name: pair.model_sites[name] for name in pair.observed})


def _form_of(model: StochasticFunction, num_data: int, dtype: torch.dtype) -> Tensor:
    """Return as many zeros as a model of this package takes.

    Raises
    ------
    ValueError
        For any other model, and for one that takes labels too.
    """
    likelihood = getattr(bare(model), "likelihood", None)
    shape = getattr(likelihood, "data_shape", None)
    if shape is None or isinstance(bare(model), LabelledModel):
        raise ValueError(
            f"x: found None for the model {type(bare(model)).__name__}, expected data (N, *data_shape), or a tuple of "
            "all that it takes, which say what form simulated data have"
        )
    return torch.zeros(num_data, *shape, dtype=dtype)
