"""What is done when a bound or a parameter stops being finite.

Training reads its sums a few times a second, so the weights are lost by the time that the bound is found to be NaN. The
run then goes back to the beginning of the epoch and repeats it, checking every step, to name the step and the site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data.batch import Batch
from pyro_vae.errors import ProgramError
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.sites import density
from pyro_vae.objectives import Objective
from pyro_vae.runtime.ranks import Ranks
from pyro_vae.runtime.state import set_generators
from pyro_vae.training.run_state import RunState

__all__ = ["Diverged", "StepCheck", "explain", "first_bad_site"]


class Diverged(Exception):
    """The bound or a parameter is no longer finite; caught by the loop, which then looks for the step."""


@dataclass
class StepCheck:
    """The check of one step, called when its gradients are there and before the weights change."""

    model: nn.Module
    guide: nn.Module
    module: nn.Module
    objective: Any  # a Pyro ELBO
    state: RunState
    ranks: Ranks = field(default_factory=Ranks)

    def __call__(self, x: Batch, bounds: Tensor, before: dict[str, Tensor]) -> None:
        """Raise ``FloatingPointError`` for a bound or gradient that is not finite; it names the step and the site.

        It is raised on all ranks, and says what the first of them found.
        """
        for rank, found in enumerate(self.ranks.gather(self._found(x, bounds, before))):
            if found is not None:
                raise FloatingPointError(found + (f" (on rank {rank})" if self.ranks.size > 1 else ""))

    def _found(self, x: Batch, bounds: Tensor, before: dict[str, Tensor]) -> str | None:
        where = f"epoch {self.state.epoch + 1}, step {self.state.step + 1}"
        if not torch.isfinite(bounds).all():
            set_generators(before, self.state.device)
            site = self.first_bad_site(x)
            return f"{where}: found the bound {bounds[0].item()}; the first value not finite is {site}"
        for name, parameter in self.module.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"{where}: found a gradient of {name!r} that is not finite"
        return None

    def first_bad_site(self, x: Batch) -> str:
        """Name the first site of a run on a batch whose value or log-probability is not finite."""
        nesting = min(self.objective.max_plate_nesting, 8)  # infinite in a Pyro ELBO that was not told
        particles = getattr(self.objective, "total_particles", self.objective.num_particles)
        programs = ProgramPair(self.model, self.guide, int(nesting))
        if isinstance(self.objective, Objective):
            programs = self.objective.programs_to_check(programs)
        return first_bad_site(programs, x, particles)


def explain(state: RunState, rerun: Callable[[], None], found: str, folder: Path | None) -> FloatingPointError:
    """Run an epoch again from its beginning, checking every step, and return the error that says where it went wrong.

    Parameters
    ----------
    state
        The run at the beginning of the epoch, where it is afterwards too.
    rerun
        Runs the epoch, each step with a :class:`StepCheck`.
    found
        What is known already, or nothing.
    folder
        Where the last good epoch is kept, if it is.
    """
    good = state.snapshot()
    try:
        rerun()
        what = found or "the bound was not finite, but is when the epoch is run again"
        what = f"epoch {state.epoch + 1}, after step {state.step}: {what}"
    except FloatingPointError as error:
        what = str(error)
    except Diverged:
        what = f"epoch {state.epoch + 1}: the step that ended it made a parameter infinite or NaN"
    finally:
        state.restore(*good)
    kept = "" if folder is None else f"; the checkpoint in {folder} is that of the last good epoch"
    return FloatingPointError(f"{what}; the programs hold the weights of the last good epoch{kept}")


@torch.no_grad()
def first_bad_site(programs: ProgramPair, x: Batch, num_particles: int) -> str:
    """Name the first site whose value or log-probability is not finite: a phrase for an error message."""
    try:
        pair = trace_pair(programs.isolated(), x, num_particles, each_datum=False)
    except (ProgramError, ValueError) as error:
        return f"the programs could not be traced again: {error}"
    for program, sites in (("guide", pair.guide_sites), ("model", pair.model_sites)):
        for name, site in sites.items():
            for what, value in (("value", site["value"]), ("log-probability", density(site))):
                if not torch.isfinite(value).all():
                    return f"the {what} of site {name!r} in the {program}"
    return "no site (every value and log-probability is finite)"
