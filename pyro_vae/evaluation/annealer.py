r"""Annealed runs of a pair of programs on batches of data, forwards and backwards.

A pilot run finds the sizes of the leapfrog steps, and its particles are thrown away. Then others are drawn from the
guide and moved to the posterior. For data that the model simulated, particles that start at the latents of the
simulation are moved to the guide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.compilation.compiled import Compile, Compiled, make_reporter
from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.data.shared_work import SharedWork
from pyro_vae.evaluation.annealed_run import anneal, pilot
from pyro_vae.evaluation.chunks import chunk_size_for, even, is_worth_compiling, most_draws, num_data_in
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.streaming import StreamingWeights, least_ess, merged
from pyro_vae.evaluation.temperatures import Schedule, temperatures
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.noise_space import NoiseSpace, Point, at_noise
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.particles import way_of
from pyro_vae.runtime.arguments import AnyData
from pyro_vae.runtime.modules import owners

__all__ = ["Annealer", "Annealing", "batch_size_for"]

Tick = Callable[[], object]
_CPU_DRAWS, _GPU_DRAWS = 1000, 2**16


class Annealing(NamedTuple):
    """How particles are moved: K chains, T temperatures on a schedule, and L leapfrog steps at each."""

    num_chains: int
    num_temperatures: int
    schedule: Schedule
    num_leapfrog_steps: int

    @property
    def num_moves(self) -> int:
        """How often a run computes the gradients of a particle, without the pilot."""
        return self.num_temperatures * self.num_leapfrog_steps


class Annealer:
    """Moves the particles of a pair's data.

    Parameters
    ----------
    programs
        The pair. Particles start where its guide draws them.
    x
        The first batch. Others of the same size run compiled too.
    annealing
        How particles are moved.
    compile, num_data
        Whether to compile, see :func:`~pyro_vae.evaluation.chunks.is_worth_compiling`, by the number of all data.
    progress
        Say what has been compiled.
    work
        What this rank does of the chains of a batch; ``None`` is all of them.
    """

    def __init__(
        self,
        programs: ProgramPair,
        x: Batch,
        annealing: Annealing,
        *,
        compile: Compile = "auto",
        num_data: int = 0,
        progress: bool = False,
        work: SharedWork | None = None,
    ) -> None:
        self.work = work
        self.programs = programs.isolated()
        self.size = len(x)
        num_chains = annealing.num_chains
        way = way_of(self.programs, x, shares_globals=False) if num_chains > 1 else True
        self.space = NoiseSpace(self.programs, trace_pair(self.programs, x), way)
        most = most_draws(self.programs, x)
        chunk_size = chunk_size_for(num_chains, len(x), most if work is None else work.least(most))
        self.chunks = [chunk_size] * (num_chains // chunk_size)
        self.chunks += [num_chains % chunk_size] * bool(num_chains % chunk_size)
        self.num_leapfrog_steps = annealing.num_leapfrog_steps
        self.betas = temperatures(annealing.schedule, annealing.num_temperatures)
        self.pilot_betas = temperatures(annealing.schedule, _pilot_length(annealing.num_temperatures))
        self.point: Callable[[Arguments], Sequence[Tensor]] = self.space.point
        if is_worth_compiling(compile, num_data * num_chains * annealing.num_moves, x.device):
            modules = (*owners(programs.model), *owners(programs.guide))
            say = make_reporter(progress)
            self.point = Compiled(self.space.point, modules, num_data=len(x), name="annealing", say=say)

    def num_ticks(self, num_directions: int = 1) -> int:
        """Return how many temperatures a batch goes through, by its pilot and in one or two directions."""
        return len(self.pilot_betas) + num_directions * len(self.chunks) * (len(self.betas) - 1)

    def pilot(self, x: Batch, tick: Tick) -> Tensor:
        """Return the sizes of the leapfrog steps at each temperature, ``(T + 1, B)``, for :meth:`forwards`."""
        evaluate = self._evaluate(x)
        start = evaluate(self._drawn(x, self.chunks[0]))
        if len(self.betas) == 2:  # nothing moves
            return torch.ones_like(start.noise[:2, :, 0])
        found = pilot(start, evaluate, self.pilot_betas, self.num_leapfrog_steps, tick)
        return _stretched(found, len(self.betas))

    def forwards(self, x: Batch, step_sizes: Tensor, tick: Tick) -> LogLikelihood:
        """Return estimates of log p(x) from particles that move from the guide to the posterior."""
        return self._run(x, lambda size: self._drawn(x, size), self.betas, step_sizes, tick)

    def backwards(self, x: Batch, noise: Tensor, step_sizes: Tensor, tick: Tick) -> LogLikelihood:
        """Return estimates of log p(x) from particles that move to the guide; one over the mean weight is p(x).

        They start from noise ``(1, B, D)`` of draws of the posterior.
        """
        start = self._whole(noise[0])
        found = self._run(x, lambda size: start.expand(size, -1, -1), self.betas.flip(0), step_sizes.flip(0), tick)
        found.values.neg_()
        return found

    def _run(
        self, x: Batch, start: Callable[[int], Tensor], betas: Tensor, step_sizes: Tensor, tick: Tick
    ) -> LogLikelihood:
        evaluate = self._evaluate(x)
        num_chains = sum(self.chunks)
        weights = StreamingWeights(num_chains)
        accepted = torch.zeros((), dtype=torch.float64)
        work = self.work
        for size in self.chunks if work is None else work.chunks(self.chunks):
            log_weight, acceptance = anneal(
                evaluate(start(size)), evaluate, betas, step_sizes, self.num_leapfrog_steps, tick
            )
            weights.update(log_weight)
            accepted = accepted + acceptance * size / num_chains
        if work is not None:
            all_weights, all_accepted = zip(*work.of_batch((weights, accepted)), strict=True)
            weights, accepted = merged(all_weights), sum(each.to(x.device) for each in all_accepted)
        whole = LogLikelihood.of(weights)
        whole.acceptance = accepted
        too_few = ~(whole.ess >= least_ess(num_chains))  # NaN is too few
        return whole.marked(too_few).rows(slice(len(x)))

    def _evaluate(self, x: Batch) -> Callable[[Tensor], Point]:
        """Return the function from noise of a whole batch to its point."""
        whole = self._whole(x)
        return lambda noise: at_noise(self.point, whole, noise)

    def _drawn(self, x: Batch, size: int) -> Tensor:
        """Return new noise of a whole batch, ``(K, B, D)``."""
        return self.space.noise_in(trace_pair(self.programs, self._whole(x), size))

    def _whole(self, x: Any) -> Any:
        """Return a smaller batch with its data repeated, so that kernels for whole batches take it."""
        return x if len(x) >= self.size else x[torch.arange(self.size, device=x.device) % len(x)]


def batch_size_for(x: AnyData, num_chains: int, device: torch.device) -> int:
    """Return how many data are annealed at once; a loader keeps its own number."""
    most = max((_GPU_DRAWS if device.type == "cuda" else _CPU_DRAWS) // num_chains, 1)
    return even(num_data_in(x) or most, most)


def _pilot_length(num_temperatures: int) -> int:
    return max(num_temperatures // 10, min(num_temperatures, 30))


def _stretched(step_sizes: Tensor, length: int) -> Tensor:
    """Interpolate the logarithms of step sizes ``(P, B)`` to ``(length, B)``."""
    place = torch.linspace(0, len(step_sizes) - 1, length, dtype=torch.float64, device=step_sizes.device)
    low = place.floor().long().clamp(max=max(len(step_sizes) - 2, 0))
    share = (place - low)[:, None].to(step_sizes.dtype)
    logarithm = step_sizes.log()
    return (logarithm[low] * (1 - share) + logarithm[(low + 1).clamp(max=len(step_sizes) - 1)] * share).exp()
