r"""All that one asks of a trained pair, in one call.

The bounds and log p(x) of test data, the share of data for which importance sampling does not carry, what is lost to
the posteriors' family and to their network (:mod:`pyro_vae.evaluation.gaps`), and by how much training data do better.
That last gap of the ELBO is one of the decoder, which has learnt the training data, and one of the encoder, whose
posteriors fit them better (Cremer, Li and Duvenaud, 2018, section 5.5). With :math:`g = \log p(x) - \mathrm{ELBO}`,

.. math:: \mathrm{ELBO}_\text{train} - \mathrm{ELBO}_\text{test}
          = \underbrace{\log p_\text{train} - \log p_\text{test}}_{\text{decoder}}
          + \underbrace{g_\text{test} - g_\text{train}}_{\text{encoder}} .
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pyro
import torch
from torch import Tensor

from pyro_vae.data.batch import Batch
from pyro_vae.data.batches import Batches
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.held import first_data, spaced_data
from pyro_vae.data.loading import Splits
from pyro_vae.errors import ProgramError
from pyro_vae.evaluation.chunks import Size
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.evaluation_parts import Run
from pyro_vae.evaluation.evaluations import Evaluation, heavy_data
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.checks import check_program
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.arguments import AnyData, NonNegativeInteger, PositiveInteger, Seed, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.ranks import ranks
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["evaluate"]

_TwoOrMore = Annotated[int, Integers("an integer of 2 or more", 2)]
_BATCH_SIZE = 500  # in which data are read


@checked
@exclusive("evaluate", shared=True)
def evaluate(
    model: StochasticFunction,
    guide: StochasticFunction,
    data: AnyData,
    *,
    num_particles: PositiveInteger = 5000,
    num_iwae_particles: _TwoOrMore = 50,
    num_data: _TwoOrMore | None = None,
    num_refined: NonNegativeInteger = 100,
    annealed: Literal["auto"] | bool = "auto",
    num_annealed: PositiveInteger = 100,
    chunk_size: Size = "auto",
    seed: Seed = 0,
    progress: bool = True,
) -> Evaluation:
    r"""Evaluate a pair on test data: bounds, log p(x), gaps, layers, and training against test data.

    Model and guide stay as they are and run in eval mode. A part that means nothing for these programs, or that fails,
    is left out, and a sentence of the result says why. So are the parts that Ctrl-C leaves undone, once log p(x) is
    known. The data are held in memory, with bits drawn once.

    Parameters
    ----------
    model, guide
        A pair of programs.
    data
        What :func:`pyro_vae.data.load` returned, or test data alone: a tensor, an array, a split, a tuple or dictionary
        of these, a dataset or a loader. The comparison with training data takes the former.
    num_particles
        Importance samples of each datum for log p(x).
    num_iwae_particles
        K of the IWAE bound, also the draws of each datum for the ELBO and its layers.
    num_data
        Evaluate the first so many test data; by default all. As many training data are taken: at even distances, or the
        first ones of a loader.
    num_refined
        Measure the approximation and the amortisation gap on the first so many test data; 0 leaves them out.
    annealed
        Estimate log p(x) by annealed importance sampling where Pareto k̂ is above 0.7, highest first (``"auto"``), for
        the first data whatever their k̂ (``True``), or never. It takes seconds a datum.
    num_annealed
        For how many data at most.
    chunk_size
        How many particles are drawn at once for log p(x), see :func:`pyro_vae.log_likelihood`.
    seed
        Of all draws.
    progress
        Show progress bars.

    Raises
    ------
    ProgramError
        If the two programs do not form a pair, or have latents of all data; see :func:`pyro_vae.at_global_means`.
    ValueError
        If a number is out of its range, or the data are empty, not finite, or outside the likelihood's support.

    Examples
    --------
    >>> from pyro_vae import VAE
    >>> vae = VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> x = torch.zeros(5, 4)
    >>> found = evaluate(vae.model, vae.guide, x, num_particles=20, num_refined=0, progress=False)
    >>> list(found.figures), found["log_p"].num_data
    (['elbo', 'iwae', 'log_p', 'kl_z'], 5)
    """
    programs, seed = ProgramPair(bare(model), bare(guide), vectorize_particles="auto"), ranks().first(lambda: seed)
    test, train = _held(programs, data, num_data, seed)
    run = Run(programs, num_particles, num_iwae_particles, chunk_size, seed, progress and ranks().is_first)
    with evaluating(model, guide):
        terms, score = run.terms(test), run.log_p(test)
        run.add_bounds(terms, score)
        chosen = _to_anneal(score, annealed)[:num_annealed]
        combined = None
        if len(chosen):
            combined = run.attempt("annealed importance sampling", lambda: run.anneal(test[chosen], chosen, score))
        if combined is None:
            combined, chosen = score, chosen[:0]
        run.add_layers(terms)
        if num_refined:
            run.attempt("the gaps of the posteriors", lambda: run.add_gaps(test[:num_refined], combined))
        if train is not None:
            run.attempt("the comparison with training data", lambda: run.add_training(train, terms, score))
    return Evaluation(run.figures, run.labels, combined, score, terms.elbo[0], chosen, tuple(run.notes))


def _to_anneal(score: LogLikelihood, annealed: Literal["auto"] | bool) -> Tensor:
    """Return the indices of the data that annealed importance sampling is wanted for, in the order of the need."""
    if annealed == "auto":
        return heavy_data(score)
    return torch.arange(len(score.values) if annealed else 0, device=score.values.device)


def _held(programs: ProgramPair, data: Any, num_data: int | None, seed: int) -> tuple[Batch, Batch | None]:
    """Return the test data, and as many training data if there are any, after a look at all of them."""
    test, train = (data.test, data.train) if isinstance(data, Splits) else (data, None)
    held = _checked(programs, test, seed, lambda batches: first_data(batches, num_data, "data"), each_datum=True)
    if train is None:
        return held, None
    return held, _checked(programs, train, seed, lambda batches: spaced_data(batches, len(held), "data"))


def _checked(
    programs: ProgramPair, data: Any, seed: int, choose: Callable[[Batches], Batch], each_datum: bool = False
) -> Batch:
    device, dtype = programs.placement(data)
    pair = (programs.model, programs.guide)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "shuffle": False, "name": "data", "programs": pair}
    runs: list[PairTrace] = []
    with pyro.validation_enabled(False), seeded(seed, device), evaluating(*pair):
        held = choose(as_batches(data, _BATCH_SIZE, each_datum=each_datum, **options))
        check_program(programs, as_batches(held, _BATCH_SIZE, **options), name="data", check_pair=runs.append)
    if runs[0].plate.dim is None:
        raise ProgramError("data: found programs without a plate of the data, expected one, to evaluate each datum")
    if len(held) < 2:
        raise ValueError("data: found 1 datum, expected 2 or more")
    return held
