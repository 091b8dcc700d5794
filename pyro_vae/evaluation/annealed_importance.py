r"""Scoring by annealed importance sampling (AIS), for posteriors that no guide comes near.

Importance sampling draws latents from the guide and hopes that some of them are likely. AIS moves them there: by T
steps of Hamiltonian Monte Carlo, under densities that lead from the guide to the posterior,

.. math:: f_\beta(z) \propto q(z|x)^{1 - \beta}\, p(x, z)^\beta, \qquad
          \log W_{kb} = \sum_{t=1}^T (\beta_t - \beta_{t-1})\, \log w_{kb}(z_{t-1}) .

The mean of W is p(x), as that of w is. For a single temperature the two are the same. The spread of log W falls as 1/T,
so what is missing in

.. math:: \log \hat p(x_b) = \log \frac1K \sum_k W_{kb}

does too, where that of importance sampling falls with the number of draws alone.
"""

from __future__ import annotations

from typing import Any, Literal

import pyro
import torch
from tqdm.auto import tqdm

from pyro_vae.compilation.compiled import Compile
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.shared_work import SharedWork
from pyro_vae.evaluation.annealer import Annealer, Annealing, batch_size_for
from pyro_vae.evaluation.chunks import Size
from pyro_vae.evaluation.estimates import LogLikelihood, joined, num_dims_of
from pyro_vae.evaluation.temperatures import Schedule
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.global_means import refuse_global_means
from pyro_vae.inference.handlers import FromPrior, StochasticFunction
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.precision import precise
from pyro_vae.runtime.state import evaluating

__all__ = ["Start", "ais", "pair_from"]

Start = Literal["guide", "prior"]


@checked
@exclusive("ais", shared=True)
@torch.inference_mode(False)  # in which no gradient could be had
@torch.no_grad()
def ais(
    model: StochasticFunction,
    guide: StochasticFunction,
    x: AnyData,
    num_chains: PositiveInteger = 16,
    num_temperatures: PositiveInteger = 500,
    *,
    start: Start = "guide",
    schedule: Schedule = "linear",
    num_leapfrog_steps: PositiveInteger = 3,
    batch_size: Size = "auto",
    compile: Compile = "auto",
    seed: Seed | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""Estimate log p(x) of each datum by annealed importance sampling.

    .. math:: \log \hat p(x_b) = \log \frac1K \sum_k W_{kb}, \qquad
              \log W_{kb} = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log w_{kb}(z_{t-1})

    The estimate is a lower bound in expectation, which rises to log p(x) with the number of temperatures. Latents may
    have any continuous support, and any number of sites; they move as noise, see :mod:`pyro_vae.inference.noise`.
    Programs run in eval mode, on their device, and stay as they are.

    Parameters
    ----------
    model, guide
        A pair of programs.
    x
        Data ``(N, *data_shape)``, or anything else that :func:`pyro_vae.log_likelihood` takes.
    num_chains
        The number K of annealed particles of each datum. The bias falls faster with the temperatures; the chains are
        what the standard error is estimated from.
    num_temperatures
        The number T of steps from the start to the posterior. With one, this is importance sampling.
    start
        Where particles begin. ``"guide"`` is close to the posterior. ``"prior"`` does not depend on a guide, takes one
        without a density, and needs more temperatures.
    schedule
        How β rises, see :mod:`pyro_vae.evaluation.temperatures`.

    Other Parameters
    ----------------
    num_leapfrog_steps
        The number of gradients that each move takes. The sizes of the steps are found by a pilot run.
    batch_size
        How many data are annealed at once: memory and speed, never what is estimated. ``"auto"`` chooses it by K and
        the device. A loader keeps its own.
    compile
        Whether to compile the gradients. ``"auto"`` does from two million on, on a GPU from two hundred million.
    seed
        Seeds the draws; the caller's generators are left as they were. ``None`` draws on from them.
    progress
        Show a progress bar with the time that is left.

    Returns
    -------
    LogLikelihood
        As that of :func:`pyro_vae.log_likelihood`, in nats; :attr:`~LogLikelihood.acceptance` is the share of moves
        that were accepted, ``(N,)``, NaN for a single temperature.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair, or a latent cannot move: it is discrete, or the guide has no density at
        values that it did not draw.
    ValueError
        For an argument outside of its range, or data that are empty, not finite, or outside the likelihood's support.

    References
    ----------
    Neal, *Annealed Importance Sampling*, 2001. Wu, Burda, Salakhutdinov and Grosse, *On the Quantitative Analysis of
    Decoder-Based Generative Models*, 2017.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> estimate = ais(vae.model, vae.guide, torch.zeros(3, 4), num_temperatures=20, seed=0)
    >>> estimate.values.shape, estimate.mean_error() < 0.1
    (torch.Size([3]), True)
    """
    programs = pair_from(start, model, guide)
    device, dtype = programs.placement(x)
    annealing = Annealing(num_chains, num_temperatures, schedule, num_leapfrog_steps)
    size = batch_size_for(x, num_chains, device) if batch_size == "auto" else batch_size
    options: dict[str, Any] = {"name": "x", "programs": (model, guide), "each_datum": True}
    batches = as_batches(x, size, device=device, dtype=dtype, shuffle=False, **options)
    work = SharedWork(batches, seed, (model, guide), annealing=annealing)
    parts: list[tuple[LogLikelihood, float]] = []  # with the number of dimensions
    shown = progress and work.ranks.is_first
    with (
        pyro.validation_enabled(False),
        work.seeded(),
        evaluating(model, guide),
        precise("highest", device),
        tqdm(desc="AIS", unit="move", disable=not shown, leave=False, smoothing=0.05) as bar,
    ):
        first = check_program(programs, batches, name="x", num_particles=num_chains)
        assert first is not None
        num_data = (batches.num_data or 0) // work.ranks.size
        annealer = Annealer(programs, first, annealing, compile=compile, num_data=num_data, progress=shown, work=work)
        if num := work.num():
            bar.total = num * annealer.num_ticks()
        for batch in work.batches():
            step_sizes = annealer.pilot(batch, bar.update)
            estimate = annealer.forwards(batch, step_sizes, bar.update)
            parts.append((estimate, num_dims_of(programs, batch)))
    return joined(work.of_all(parts), device)


def pair_from(start: Start, model: StochasticFunction, guide: StochasticFunction) -> ProgramPair:
    """Return the pair whose guide draws what particles start from."""
    if start == "prior":
        refuse_global_means(model, "start from the prior")
    return ProgramPair(model, guide if start == "guide" else FromPrior(model), vectorize_particles="auto")
