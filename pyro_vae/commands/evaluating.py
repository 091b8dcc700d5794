"""Score a run on its test data: log p(x) with its errors, and what each latent does."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pyro_vae.commands.runs import Device, best_device, load_data, load_run
from pyro_vae.commands.tables import pair_of
from pyro_vae.diagnostics.diagnosis import Diagnosis, diagnose
from pyro_vae.display import rounded
from pyro_vae.evaluation.estimates import LogLikelihood
from pyro_vae.evaluation.evaluating import evaluate as evaluate_pair
from pyro_vae.evaluation.evaluations import likelihood_figure
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.optional import install
from pyro_vae.runtime.ranks import ranks

__all__ = ["evaluate"]

THRESHOLD = 0.01  # of a unit's activity, as in the papers
ESTIMATOR = "index code, Hoffman & Johnson 2016"


def evaluate(
    run: str,
    num_particles: int = 5000,
    num_data: int | None = None,
    num_data_mi: int = 2000,
    chunk_size: int | None = None,
    full: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Score the test data of a run and diagnose its latents, into evaluation.json and kl_per_unit.png of its folder.

    Parameters
    ----------
    run
        folder that training wrote
    num_particles
        importance samples per image
    num_data
        score only the first so many test images
    num_data_mi
        test images for the mutual information; its time grows with their square
    chunk_size
        importance samples at once, for memory and speed; chosen unless given
    full
        also the gaps of the posteriors, training data, and annealed importance sampling where importance sampling does
        not carry; takes minutes
    seed
        of all that is drawn
    device
        auto takes a GPU where there is one
    """
    for name, value, least in (("num_particles", num_particles, 2), ("num_data", num_data, 2)):
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')}: found {value}, expected {least} or more")
    folder = Path(run)
    config, vae = load_run(run)
    vae.to(best_device(device))
    data = load_data(config)
    if num_data is not None and num_data > len(data.test):
        print(f"--num-data: found {num_data}, and there are {len(data.test)} test data, all of which are scored")
    x = data.test[:num_data]
    model, guide = pair_of(vae, config)
    evaluation = evaluate_pair(
        model,
        guide,
        data if full else data.test,
        num_particles=num_particles,
        num_data=num_data,
        num_refined=100 if full else 0,
        annealed="auto" if full else False,
        chunk_size="auto" if chunk_size is None else chunk_size,
        seed=seed,
    )
    score = evaluation.importance
    diagnosis = diagnose(model, guide, x, num_data_mi=num_data_mi, seed=seed, threshold=THRESHOLD)
    if not ranks().is_first:
        return
    summary = {"data": config["data"]} | summarise(score)
    whole = summary | {"diagnosis": as_json(diagnosis), "evaluation": evaluation.as_dict()}
    write_text(folder / "evaluation.json", json.dumps(whole, indent=2) + "\n")
    print(f"{evaluation}\n")
    print_score(score, summary)
    print_diagnosis(diagnosis)
    if find_spec("matplotlib") is None:
        print(f"written to {folder / 'evaluation.json'}; for a picture of the KL of each unit, {install('report')}")
        return
    from pyro_vae.plots import kl_per_unit  # only here, as it needs matplotlib

    active = {
        name: activity > THRESHOLD
        for name, activity in diagnosis.activity.items()
        if activity.shape == diagnosis.kl_per_unit[name].shape  # not so where a site is one unit to the KL
    }
    kl_per_unit(diagnosis.kl_per_unit, active).savefig(folder / "kl_per_unit.png", dpi=150)
    print(f"written to {folder / 'evaluation.json'} and {folder / 'kl_per_unit.png'}")


def summarise(score: LogLikelihood) -> dict[str, Any]:
    """Return the estimates as evaluation.json has them."""
    quantiles = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64, device=score.ess.device)
    summary: dict[str, Any] = {
        "num_data": len(score.values),
        "num_particles": score.num_particles,
        "log_likelihood": score.mean(),
        "log_likelihood_error": score.mean_error(),
        "log_likelihood_error_over_data": likelihood_figure(score).data_error,
        "bits_per_dim": score.bits_per_dim(),
        "ess_quantiles_5_50_95": score.ess.quantile(quantiles).tolist(),
        "khat_quantiles_5_50_95": None,
        "khat_above_0.7": None,
    }
    if score.khat.isfinite().all():
        summary["khat_quantiles_5_50_95"] = score.khat.quantile(quantiles).tolist()
        summary["khat_above_0.7"] = (score.khat > 0.7).double().mean().item()
    return summary


def print_score(score: LogLikelihood, summary: dict[str, Any]) -> None:
    """Print log p(x), and how far its importance samples can be trusted."""
    low, middle, high = summary["ess_quantiles_5_50_95"]
    print(f"log p(x), {summary['num_data']} test images, {score.num_particles} importance samples each")
    print(f"  mean            {score.mean():9.3f} nats per image = {score.bits_per_dim():.4f} bits per dimension")
    print(f"  ESS             {middle:9.1f} median, 5 % below {low:.1f}, 5 % above {high:.1f}")
    if summary["khat_quantiles_5_50_95"] is None:
        print("  Pareto k-hat      unknown: too few importance samples, or weights too far apart, to fit a tail")
    else:
        low, middle, high = summary["khat_quantiles_5_50_95"]
        print(f"  Pareto k-hat    {middle:9.2f} median, 5 % below {low:.2f}, 5 % above {high:.2f}")
        print(
            f"                  {100 * summary['khat_above_0.7']:8.1f} % above 0.7, where no estimate is to be trusted"
        )


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the fields of a diagnosis with tensors as lists, and the name of the mutual information's estimator."""
    fields = {
        name: {site: v.tolist() if isinstance(v, torch.Tensor) else v for site, v in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in vars(diagnosis).items()
    }
    return fields | {"mutual_information_estimator": ESTIMATOR}


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the shares of the ELBO, the active units and the mutual information.

    The ELBO and the KL of each site stand in the table of the evaluation, from draws of its own.
    """
    d = diagnosis
    print(f"\nshares of the ELBO, {d.num_data} test images")
    print("  site           share   active units")
    for name, fraction in d.fractions.items():
        units = f"{d.active_units[name]} of {d.units[name]}" if name in d.units else ""
        kind = "-KL" if name in d.kl else "log p"
        print(f"  {name:<4} {kind:<5} {100 * fraction:9.1f} % {units:>14}".rstrip())
    print(f"mutual information {_aligned(d.mutual_information, d.mutual_information_error)} nats ({ESTIMATOR})")
    near = ", so near that more images would give more" if d.mutual_information_bound - d.mutual_information < 1 else ""
    print(f"                   first {d.num_data_mi} images; at most log {d.num_data_mi} = "
          f"{d.mutual_information_bound:.3f}{near}")  # fmt: skip
    print(f"aggregate KL       {_aligned(d.aggregate_kl, d.aggregate_kl_error)} nats, of the codes of those images "
          "to the prior")  # fmt: skip
    for sentence in d.warnings:
        print(f"warning: {sentence}")


def _aligned(value: float, error: float) -> str:
    figure, error_shown = rounded(value, error)
    return f"{figure:>8} ± {error_shown}"
