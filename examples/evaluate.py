"""Score a trained run: bounds and the log-likelihood of its test set, with their errors, and what its latents do.

    python examples/evaluate.py runs/digits-20260101-120000 --num-particles 5000

Prints a summary and writes it to evaluation.json in the run's folder, next to kl_per_unit.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from train_vae import best_device, load_data, load_run

import pyro_vae
from pyro_vae import plots
from pyro_vae.diagnostics.diagnosis import Diagnosis, diagnose
from pyro_vae.evaluation.evaluations import likelihood_figure
from pyro_vae.runtime.files import write_text

THRESHOLD = 0.01  # of a unit's activity, as in the papers
ESTIMATOR = "index code, Hoffman & Johnson 2016"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="folder that train_vae.py wrote")
    parser.add_argument("--num-particles", type=int, default=5000, help="importance samples per image (default: 5000)")
    parser.add_argument("--num-data", type=int, help="score only the first so many test images (default: all)")
    parser.add_argument("--num-data-mi", type=int, default=2000,
                        help="test images for the mutual information; its time grows with their square "
                             "(default: 2000)")  # fmt: skip
    parser.add_argument("--chunk-size", type=int,
                        help="importance samples at once, for memory and speed (default: chosen)")  # fmt: skip
    parser.add_argument("--full", action="store_true",
                        help="also the gaps of the posteriors, training data, and annealed importance sampling where "
                             "importance sampling does not carry; takes minutes")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args(argv)
    for name, least in (("num_particles", 2), ("num_data", 2), ("num_data_mi", 1), ("chunk_size", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"argument --{name.replace('_', '-')}: found {value}, expected {least} or more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        evaluate(args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(args: argparse.Namespace) -> None:
    folder = Path(args.run)
    config, vae = load_run(args.run)
    vae.to(best_device(args.device))
    data = load_data(config)
    x = data.test[: args.num_data]
    evaluation = pyro_vae.evaluate(
        vae.model, vae.guide, data if args.full else data.test, num_particles=args.num_particles,
        num_data=args.num_data, num_refined=100 if args.full else 0, annealed="auto" if args.full else False,
        chunk_size=args.chunk_size or "auto", seed=args.seed,
    )  # fmt: skip
    score = evaluation.importance
    diagnosis = diagnose(vae.model, vae.guide, x, num_data_mi=args.num_data_mi, seed=args.seed, threshold=THRESHOLD)
    quantiles = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64, device=score.ess.device)
    summary = {
        "data": config["data"],
        "num_data": len(x),
        "num_particles": args.num_particles,
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
    summary["diagnosis"] = as_json(diagnosis)
    summary["evaluation"] = evaluation.as_dict()
    write_text(folder / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    low, middle, high = summary["ess_quantiles_5_50_95"]
    print(f"{evaluation}\n\nlog p(x), {len(x)} test images, {args.num_particles} importance samples each")
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
    print_diagnosis(diagnosis)
    active = {
        name: activity > THRESHOLD
        for name, activity in diagnosis.activity.items()
        if activity.shape == diagnosis.kl_per_unit[name].shape  # not so where a site is one unit to the KL
    }
    plots.kl_per_unit(diagnosis.kl_per_unit, active).savefig(folder / "kl_per_unit.png", dpi=150)
    print(f"written to {folder / 'evaluation.json'} and {folder / 'kl_per_unit.png'}")


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
    d = diagnosis
    print(f"\nELBO               {d.elbo:8.3f} ± {d.elbo_error:.3f} nats, {d.num_data} test images")
    print("  site        nats       ±   of the ELBO   active units")
    for name, fraction in d.fractions.items():
        is_latent = name in d.kl
        nats, error = (-d.kl[name], d.kl_error[name]) if is_latent else (fraction * d.elbo, None)
        units = f"{d.active_units[name]} of {d.units[name]}" if name in d.units else ""
        kind = "-KL" if is_latent else "log p"
        shown = f"{error:.3f}" if error is not None else ""
        print(f"  {name:<4} {kind:<5} {nats:9.3f} {shown:>7} {100 * fraction:11.1f} % {units:>14}".rstrip())
    print(f"mutual information {d.mutual_information:8.3f} ± {d.mutual_information_error:.3f} nats ({ESTIMATOR})")
    near = ", so near that more images would give more" if d.mutual_information_bound - d.mutual_information < 1 else ""
    print(f"                   first {d.num_data_mi} images; at most log {d.num_data_mi} = "
          f"{d.mutual_information_bound:.3f}{near}")  # fmt: skip
    print(f"aggregate KL       {d.aggregate_kl:8.3f} ± {d.aggregate_kl_error:.3f} nats, of the codes of those images "
          "to the prior")  # fmt: skip
    for sentence in d.warnings:
        print(f"warning: {sentence}")


if __name__ == "__main__":
    sys.exit(main())
