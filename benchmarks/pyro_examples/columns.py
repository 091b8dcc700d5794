"""The five things that are done with each example, and the number that each is held against."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pyro
from particles import iwae
from program import started
from result import Maker, Result, Settings
from saving import checkpoint, saved
from training import fit, svi
from weights import Estimates, estimate, global_means

import pyro_vae
from pyro_vae.display import with_error

__all__ = ["COLUMNS"]


@functools.cache
def _by_hand(make: Maker, settings: Settings) -> Estimates:
    program = make(0)
    program = started(make, 0, program.change is not None and not program.has_globals)
    if program.has_globals:
        program = global_means(program)
    pyro.set_rng_seed(2)
    return estimate(program, settings.num_particles)


def log_likelihood(make: Maker, is_changed: bool, settings: Settings) -> Result:
    """Estimate log p(x), or log p(x | W) at the means of global latents W; beside as many weights of plain Pyro.

    The two are apart by so many Monte Carlo standard errors.
    """
    program = started(make, 0, is_changed)
    found = pyro_vae.log_likelihood(
        program.model, program.guide, program.data, settings.num_particles, batch_size=program.batch_size, seed=1
    )
    if program.has_globals and not is_changed:
        return Result(False, "a figure for each datum, although globals tie the data together", "not refused")
    expected = _by_hand(make, settings)
    if found.values.shape != expected.values.shape:
        return Result(False, f"{len(found.values)} values for {len(expected.values)} data", "shape")
    error = (found.std_error.square() + expected.std_error.square()).sum().sqrt().item() / len(found.values)
    means = found.values.mean().item(), expected.values.mean().item()
    sigmas = abs(means[0] - means[1]) / max(error, 1e-5)
    heavy = (found.khat > 0.7).double().mean().item()
    text = f"{means[0]:.4f} nats a datum, by hand {with_error(means[1], error)}, {sigmas:.1f} errors apart"
    text += f", k̂ > 0.7 for {100 * heavy:.0f} % of the data"
    return Result(sigmas < 4, text, f"{means[0]:.2f}, {means[1]:.2f} ({sigmas:.1f} σ)")


COLUMNS: dict[str, Callable[[Maker, bool, Settings], Result]] = {
    "SVI, ELBO": svi,
    "fit": fit,
    "SVI, IWAE K = 5": iwae,
    "log_likelihood": log_likelihood,
    "save, load": saved,
    "fit's checkpoint": checkpoint,
}
