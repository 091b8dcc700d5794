"""Train a variational autoencoder on images, score it, and draw what it learnt.

    python examples/train_vae.py                                  # 8 x 8 digits, nothing to download
    python examples/train_vae.py --latent-dim 2                   # with pictures of the two-dimensional latent plane
    python examples/train_vae.py --data mnist --data-root DATA --latent-dim 50
    python examples/train_vae.py --data frey_faces --data-root DATA --hidden-dims 200 --activation gelu --epochs 800
    python examples/train_vae.py --data my_images.npy
    python examples/train_vae.py --objective iwae --num-particles 5 --gradient dreg     # another bound
    python examples/train_vae.py --kl-weight 4                    # a β-VAE; --warm-up 20 starts from a weight of 0
    python examples/train_vae.py --program hvae --latent-dims 100 50 --hidden-dims 200,200 100,100  # two layers
    python examples/train_vae.py --program ladder --latent-dims 100 50
    python examples/train_vae.py --program conv-ladder --data mnist --data-root DATA

The results go to a new folder under runs/: config.json, metrics.jsonl (an epoch a line), metrics.json (the final
scores, nats per image), checkpoint.safetensors (the best weights) and the pictures. Ctrl-C stops cleanly, and --resume
goes on from there. The options are in train_vae_options.py, the settings of a run in train_vae_settings.py.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_vae_options import COMPILE, OBJECTIVES, PROGRAMS, own_options, parse
from train_vae_settings import configure, read_config

import pyro_vae
from pyro_vae import plots
from pyro_vae.evaluation import mean_bound
from pyro_vae.runtime.allocation import BoundedAllocation
from pyro_vae.runtime.files import replacing, write_text
from pyro_vae.runtime.tensor_files import read_tensors
from pyro_vae.schedules import Linear, Schedule


def load_data(config: dict[str, Any]) -> pyro_vae.data.Splits:
    """Load the data of a run."""
    name = config["data"]
    source = np.load(name, allow_pickle=False) if name.endswith(".npy") else name
    binarize = None if config["binarize"] == "none" else config["binarize"]
    return pyro_vae.data.load(source, config["data_root"], binarize, seed=config["seed"])


def load_run(run: str) -> tuple[dict[str, Any], Any]:
    """Return the settings of a finished run and its program with the best weights."""
    return read_config(Path(run), "RUN"), pyro_vae.load(run)


def best_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: found cuda, but torch sees no CUDA device; expected cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def build(config: dict[str, Any], splits: pyro_vae.data.Splits, resumed: Path | None = None) -> Any:
    """Make the program; of a run that is resumed, it may take no more memory than the run's weights."""
    torch.manual_seed(config["seed"])
    make = PROGRAMS[config["program"]]
    arguments = {name: config[name] for name in (*own_options("model", config["program"]), "likelihood")}
    if resumed is None:
        vae: Any = make(splits.data_shape, **arguments)
    else:
        tensors, _ = read_tensors(resumed / "last.safetensors")
        try:
            with BoundedAllocation(tensors.values()):
                vae = make(splits.data_shape, **arguments)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{resumed / 'config.json'}: {error}") from error
    if config["likelihood"] == "bernoulli" and make is not pyro_vae.ConvLadderVAE:
        vae.likelihood.start_at_mean(splits.train.mean())
    return vae


def draw(vae: Any, splits: pyro_vae.data.Splits, history: pyro_vae.History, folder: Path) -> None:
    """Draw the pictures; data that are not images get the learning curve alone."""
    figures = {"learning_curve": plots.learning_curve(history.records)}
    images = len(splits.data_shape) == 2 or (len(splits.data_shape) == 3 and splits.data_shape[0] in (1, 3))
    if images:
        x = splits.test[:10]
        figures["reconstructions"] = plots.reconstructions(x, vae.reconstruct(x))
        figures["samples"] = plots.samples(vae.sample(100, mean=True))
    if len(vae.latents) > 1 and images:
        shown = range(1, len(vae.latents) + 1, math.ceil(len(vae.latents) / 6))  # a few of many layers
        figures["layer_samples"] = plots.layers({vae.latents[t - 1]: vae.sample(10, layer=t, mean=True) for t in shown})
        rows = {"x": x} | {vae.latents[t - 1]: vae.reconstruct(x, layer=t) for t in shown}
        figures["layer_reconstructions"] = plots.layers(rows)
    if isinstance(vae, pyro_vae.VAE) and vae.prior.latent_dim == 2:
        figures["latent_space"] = plots.latent_space(vae.encode(splits.test[:]), splits.test.labels)
        if images:
            z, coordinates = plots.latent_grid(20)
            with torch.no_grad():
                figures["manifold"] = plots.manifold(vae.likelihood(z.to(vae.prior.loc)).mean, coordinates)
    for name, figure in figures.items():
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150)


def weighed(vae: Any, num_steps: int, config: dict[str, Any]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return model and guide with the KL weighed as set; ``num_steps`` are those of an epoch."""
    weight: float | Schedule = config["kl_weight"]
    if config["warm_up"]:
        weight = Linear(config["warm_up"] * num_steps, end=config["kl_weight"])
    elif weight == 1:
        return vae.model, vae.guide
    return pyro_vae.anneal_kl(vae.model, vae.guide, weight)


def train(vae: Any, splits: pyro_vae.data.Splits, config: dict[str, Any], folder: Path, resume: bool) -> Any:
    """Train the program and return the history; what there is of a run that never began is removed."""
    options = own_options("bound", config["objective"])
    objective = OBJECTIVES[config["objective"]](**{name: config[name] for name in options})
    if resume:  # before a batch is run with it, which may take more memory than there is
        state = json.loads(read_tensors(folder / "last.safetensors")[1].get("run", "{}"))
        before = state["facts"]["objective"] if "facts" in state else None
        if before != repr(objective):
            raise ValueError(f"{folder / 'config.json'}: objective: found {objective}, expected {before} as before")
    model, guide = weighed(vae, math.ceil(len(splits.train) / config["batch_size"]), config)
    kl = "" if model is vae.model else f" under {model}"
    print(f"{len(splits.train)} training data {splits.data_shape}, {type(vae).__name__}, {objective}{kl}, "
          f"on {next(vae.parameters()).device}; results in {folder}", flush=True)  # fmt: skip
    if not resume:
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    try:
        return pyro_vae.fit(
            model, guide, splits, objective=objective, num_epochs=config["epochs"],
            batch_size=config["batch_size"], lr=lambda done: config["lr"] * 0.5 * (1 + math.cos(math.pi * done)),
            clip_norm=config["clip_norm"], seed=config["seed"], checkpoint=folder, resume=resume, **speed(config),
        )  # fmt: skip
    except (ValueError, TypeError, OSError):
        if not resume and not (folder / "last.safetensors").exists():  # it never began: leave nothing behind
            with suppress(OSError):
                (folder / "config.json").unlink()
                folder.rmdir()
        raise


def speed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the precision and the choice to compile, the same for training and scoring."""
    return {"precision": config["precision"], "compile": COMPILE[config["compile"]]}


def score(vae: Any, splits: pyro_vae.data.Splits, config: dict[str, Any]) -> dict[str, Any]:
    """Return the scores on the test data, as metrics.json has them."""
    elbo = mean_bound(vae.model, vae.guide, splits.test, pyro_vae.ELBO(num_particles=10), seed=config["seed"])
    estimate = pyro_vae.log_likelihood(
        vae.model, vae.guide, splits.test, config["eval_particles"], seed=config["seed"], progress=True,
        **speed(config),
    )  # fmt: skip
    diagnosis = pyro_vae.diagnose(vae.model, vae.guide, splits.test[:1000], num_data_mi=100, seed=config["seed"])
    active = pyro_vae.active_units(vae.guide, splits.test)
    return {
        "test_elbo": elbo,
        "test_log_likelihood": estimate.mean(),
        "test_log_likelihood_error": estimate.mean_error(),
        "num_particles": config["eval_particles"],
        "khat_above_0.7": (estimate.khat > 0.7).double().mean().item(),
        "caveat": estimate.caveat(),
        "active_units": sum(active.values()),
        "units": sum(diagnosis.units.values()),
        "layers": {
            name: {"kl": diagnosis.kl[name], "active_units": active[name], "units": diagnosis.units[name]}
            for name in vae.latents
        },
    }


def print_scores(metrics: dict[str, Any]) -> None:
    """Print bound and log-likelihood, the latter to as many digits as its error takes, two or more."""
    value, error = metrics["test_log_likelihood"], metrics["test_log_likelihood_error"]
    digits = max(2, -math.floor(math.log10(error))) if 0 < error < 1 else 2
    print(f"test ELBO            {metrics['test_elbo']:9.2f} nats per datum")
    print(f"test log-likelihood  {value:9.{digits}f} ± {error:.{digits}f}{metrics['caveat'][:1]} nats per datum "
          f"({metrics['num_particles']} importance samples, whose Monte Carlo error is the ±)")  # fmt: skip
    if metrics["caveat"]:
        print(metrics["caveat"])


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv, __doc__)
    try:
        config, folder = configure(args)
        splits = load_data(config)
        begun = args.resume is not None and (folder / "last.safetensors").is_file()
        if args.resume is not None and not begun:  # killed after its first file
            print(f"the run in {folder} had not begun, and begins now", file=sys.stderr)
        vae = build(config, splits, folder if begun else None).to(best_device(config["device"]))
        history = train(vae, splits, config, folder, resume=begun)
        if history.interrupted:
            print(f"interrupted; python examples/train_vae.py --resume {folder} goes on", file=sys.stderr)
            return 130
        vae = pyro_vae.load(folder).to(best_device(config["device"]))  # the weights of the best epoch
        metrics = score(vae, splits, config)
        metrics["best_epoch"] = history.best["epoch"]
        metrics["training_seconds"] = round(sum(record["seconds"] for record in history.records), 3)
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        draw(vae, splits, history, folder)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"train_vae.py: {error}", file=sys.stderr)
        return 2
    print_scores(metrics)
    print(f"active latent units  {metrics['active_units']:6d} of {metrics['units']}")
    if len(vae.latents) > 1:
        for name, layer in metrics["layers"].items():
            print("  {:<4} {active_units:4d} of {units:<4d} KL {kl:7.2f} nats".format(name, **layer))
    print(f"weights, metrics and pictures are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
