"""What a report measures: the evaluation, log p(x) of each datum, and what each latent does.

It is measured once, for all parts of the page. Where it cannot be, the parts that need it say why.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.data.conversion import as_batches
from pyro_vae.diagnostics.activity import posterior_means
from pyro_vae.diagnostics.diagnosis import Diagnosis, diagnose
from pyro_vae.evaluation.evaluating import evaluate
from pyro_vae.evaluation.evaluations import Evaluation
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.support import is_discrete
from pyro_vae.reporting.decoders import Top, top_of
from pyro_vae.reporting.planes import Plane, plane_of
from pyro_vae.reporting.subject import LeftOut, Subject, first_of
from pyro_vae.runtime.state import evaluating, seeded

__all__ = ["Findings", "Located"]

_NUM_DATA_MI = 200


@dataclass(frozen=True)
class Located:
    """The posterior means of a site, ``(N, D)``, on a plane; ``top`` decodes it, or says why nothing can."""

    site: str
    means: Tensor
    plane: Plane
    top: Top | LeftOut


class Findings:
    """What was found about a subject; each is measured when it is first asked for."""

    def __init__(self, subject: Subject, num_particles: int, progress: bool) -> None:
        self.subject, self.num_particles, self.progress = subject, num_particles, progress

    @cached_property
    def evaluation(self) -> Evaluation:
        """The bounds and log p(x), with their errors."""
        subject = self.subject
        return evaluate(
            subject.model, subject.guide, subject.x, num_particles=self.num_particles, num_refined=0, annealed=False,
            seed=subject.seed, progress=self.progress,
        )  # fmt: skip

    @cached_property
    def num_levels(self) -> int | None:
        """How many levels were dequantised, 1 where p is a probability already; ``None`` for another density."""
        subject = self.subject
        if subject.num_levels > 1:
            return subject.num_levels
        programs = ProgramPair(subject.model, subject.guide)
        device, dtype = programs.placement()
        batches = as_batches(first_of(subject.x, 2), 2, device=device, dtype=dtype, shuffle=False, name="data")
        with seeded(subject.seed, device), pyro.validation_enabled(False), evaluating(subject.model, subject.guide):
            pair = trace_pair(programs.isolated(), next(iter(batches)))
        return 1 if all(is_discrete(pair.model_sites[name]["fn"]) for name in pair.observed) else None

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """The use of each latent."""
        subject = self.subject
        return diagnose(subject.model, subject.guide, subject.x, num_data_mi=_NUM_DATA_MI, seed=subject.seed)

    def active(self, site: str) -> Tensor | None:
        """Return which units of a site move with the data, ``(D,)``, or ``None`` where that is not known by unit."""
        activity = self.diagnosis.activity.get(site)
        if activity is None or activity.shape != self.diagnosis.kl_per_unit[site].shape:
            return None
        return activity > 0.01

    @cached_property
    def located(self) -> Located:
        """The latents on a plane."""
        subject = self.subject
        top = _top(subject)
        means = posterior_means(subject.guide, subject.x, seed=subject.seed)
        chosen = top.site if isinstance(top, Top) else self._informative(means)
        if chosen not in means:
            raise LeftOut(f"the posterior of {chosen} has no mean in closed form, which would be its place on a map")
        flat = means[chosen].reshape(len(means[chosen]), -1).cpu()
        if flat.shape[1] < 2:
            raise LeftOut(f"{chosen} is a single number, which leaves no plane to draw")
        return Located(chosen, flat, plane_of(flat, chosen), top)

    def _informative(self, means: dict[str, Tensor]) -> str:
        """Return the site with the largest KL of those that have means of two or more units."""
        wide = [name for name, each in means.items() if each[0].numel() > 1 and torch.is_floating_point(each)]
        if not wide:
            raise LeftOut("no latent has two units or more with a posterior mean, which a map needs")
        kl: dict[str, Any] = self.diagnosis.kl
        return max(wide, key=lambda name: kl.get(name, 0.0))


def _top(subject: Subject) -> Top | LeftOut:
    if subject.program is None:
        return LeftOut("of a model and a guide of your own, it is not known what the decoder is; of a VAE it is")
    try:
        return top_of(subject.program)
    except LeftOut as reason:
        return reason
