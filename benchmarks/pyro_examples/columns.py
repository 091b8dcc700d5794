"""The five things that are done with each example, and the number that each is held against."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import pyro
from particles import iwae
from program import accepted, started
from result import Maker, Result, Settings
from saving import checkpoint, saved
from training import fit, svi
from weights import Estimates, estimate, global_means

import pyro_vae
import pyro_vae.inference

__all__ = ["COLUMNS"]

ARGUMENTS = frozenset({"max_plate_nesting", "arguments bound", "arguments packed into one tensor"})
MODULES, PARTICLES = frozenset({"in modules"}), frozenset({"vectorize_particles=False"})


@functools.cache
def _by_hand(make: Maker, settings: Settings, conditional: bool) -> Estimates:
    program = started(make, 0, ("arguments bound",) if make(0).whole else ())
    if conditional:
        program = global_means(program)
    pyro.set_rng_seed(2)
    return estimate(program, settings.num_particles)


def log_likelihood(make: Maker, changes: tuple[str, ...], settings: Settings) -> Result:
    """Estimate log p(x); beside as many weights of plain Pyro, apart by so many Monte Carlo standard errors."""
    program = started(make, 0, changes)
    options = accepted(pyro_vae.log_likelihood, program.options)
    model, guide, text = program.model, program.guide, ""
    evaluate = functools.partial(
        pyro_vae.log_likelihood, num_particles=settings.num_particles, batch_size=program.batch_size, seed=1, **options
    )
    if program.has_globals:
        try:
            evaluate(model, guide, program.data)
        except pyro_vae.ProgramError as error:
            if "at_global_means" not in str(error):
                raise
            text = f"refused: {str(error).splitlines()[0]}; given the globals: "
        else:
            return Result(False, "a figure for each datum, although globals tie the data together", "not refused")
        model, guide = _at_global_means()(model, guide)
    found = evaluate(model, guide, program.data)
    expected = _by_hand(make, settings, program.has_globals)
    if found.values.shape != expected.values.shape:
        return Result(False, f"{len(found.values)} values for {len(expected.values)} data", "shape")
    error = (found.std_error.square() + expected.std_error.square()).sum().sqrt().item() / len(found.values)
    means = found.values.mean().item(), expected.values.mean().item()
    sigmas = abs(means[0] - means[1]) / max(error, 1e-5)
    heavy = (found.khat > 0.7).double().mean().item()
    text += f"{means[0]:.4f} nats a datum, by hand {means[1]:.4f} ± {error:.4f}, {sigmas:.1f} errors apart"
    text += f", k̂ > 0.7 for {100 * heavy:.0f} % of the data"
    return Result(sigmas < 4, text, f"{sigmas:.1f} σ" + ", conditional" * program.has_globals)


def _at_global_means() -> Callable[..., Any]:
    room = pyro_vae.inference
    found = getattr(pyro_vae, "at_global_means", None)
    for info in pkgutil.iter_modules(room.__path__):
        found = found or getattr(importlib.import_module(f"{room.__name__}.{info.name}"), "at_global_means", None)
    if found is None:
        raise AttributeError("pyro_vae has no at_global_means")
    return found


COLUMNS: dict[str, tuple[Callable[[Maker, tuple[str, ...], Settings], Result], frozenset[str]]] = {
    "SVI, ELBO": (svi, ARGUMENTS),
    "fit": (fit, ARGUMENTS | MODULES),
    "SVI, IWAE K = 5": (iwae, ARGUMENTS | PARTICLES),
    "log_likelihood": (log_likelihood, ARGUMENTS | PARTICLES),
    "save, load": (saved, MODULES),
    "fit's checkpoint": (checkpoint, ARGUMENTS | MODULES),
}
