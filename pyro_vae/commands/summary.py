"""The scores of a run on its test data, in numbers and in words."""

from __future__ import annotations

from typing import Any

from pyro_vae.commands.runs import speed
from pyro_vae.commands.tables import pair_of
from pyro_vae.data.loading import Splits
from pyro_vae.diagnostics.activity import active_units
from pyro_vae.diagnostics.diagnosis import diagnose
from pyro_vae.display import rounded
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.objectives import ELBO

__all__ = ["print_scores", "score"]


def score(vae: Any, splits: Splits, config: dict[str, Any]) -> dict[str, Any]:
    """Return the scores on the test data, as metrics.json has them."""
    model, guide = pair_of(vae, config)
    elbo = mean_bound(model, guide, splits.test, ELBO(num_particles=10), seed=config["seed"])
    estimate = log_likelihood(
        model, guide, splits.test, config["eval_particles"], seed=config["seed"], progress=True,
        **speed(config),
    )  # fmt: skip
    is_unknown = bool(estimate.khat.isnan().any())  # it takes more than 20 particles
    diagnosis = diagnose(model, guide, splits.test[:1000], num_data_mi=100, seed=config["seed"])
    active = active_units(guide, splits.test)
    return {
        "test_elbo": elbo,
        "test_log_likelihood": estimate.mean(),
        "test_log_likelihood_error": estimate.mean_error(),
        "num_particles": config["eval_particles"],
        "khat_above_0.7": None if is_unknown else (estimate.khat > 0.7).double().mean().item(),
        "caveat": estimate.caveat(),
        "active_units": sum(active.values()),
        "units": sum(diagnosis.units.values()),
        "layers": {
            name: {"kl": diagnosis.kl[name], "active_units": active[name], "units": diagnosis.units[name]}
            for name in vae.latents
        },
    }


def print_scores(metrics: dict[str, Any]) -> None:
    """Print bound and log-likelihood, the latter to the digits that its error leaves."""
    value, error = rounded(metrics["test_log_likelihood"], metrics["test_log_likelihood_error"])
    print(f"test ELBO            {metrics['test_elbo']:9.2f} nats per datum")
    print(f"test log-likelihood  {value:>9} ± {error}{metrics['caveat'][:1]} nats per datum "
          f"({metrics['num_particles']} importance samples, whose Monte Carlo error is the ±)")  # fmt: skip
    if metrics["caveat"]:
        print(metrics["caveat"])
