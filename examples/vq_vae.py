"""Train a VQ-VAE on images, then a prior of its codes, and draw from that.

    python examples/vq_vae.py                                     # 8 x 8 digits, about a minute, nothing to download
    python examples/vq_vae.py --data mnist --data-root DATA --channels 16 32 --num-codes 128 --epochs 5 --prior-epochs 3

Two stages, as in the paper (van den Oord et al., Neural Discrete Representation Learning, 2017). First encoder,
codebook and decoder are trained under a prior of independent codes. Then all of these are frozen, and an autoregressive
prior of the codes is trained. Both bounds are nats per test image, to be compared with those of any program:
log p(x|codes) + log p(codes), whose second term the second prior raises.

The results go to a new folder under runs/: config.json, metrics.jsonl (an epoch a line, of both stages), metrics.json
(the final scores), checkpoint.safetensors (with the second prior) and the pictures.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import pyro_vae
from pyro_vae import plots
from pyro_vae.commands.runs import best_device, load_data
from pyro_vae.commands.settings import new_folder
from pyro_vae.priors.codes import AutoregressiveCodes
from pyro_vae.programs import VQVAE, perplexity
from pyro_vae.runtime.files import replacing, write_text


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "mnist", "fashion_mnist"], default="digits",
                        help="black and white images (default: digits)")  # fmt: skip
    parser.add_argument("--data-root", metavar="DIR", help="folder with the data files, or where to download them to "
                        "(default: $PYRO_VAE_DATA, else a cache folder)")  # fmt: skip
    parser.add_argument("--num-codes", type=int, default=64, help="size of the codebook (default: 64)")
    parser.add_argument("--code-dim", type=int, default=16, help="length of its vectors (default: 16)")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64], metavar="COUNT",
                        help="channels of the encoder, each of which halves the image (default: 32 64)")  # fmt: skip
    parser.add_argument("--commitment", type=float, default=0.25, help="β, which holds the encoder to its codes "
                        "(default: 0.25)")  # fmt: skip
    parser.add_argument("--hidden-dim", type=int, default=64,
                        help="width of the autoregressive prior, a multiple of 4 (default: 64)")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=60, help="of the first stage (default: 60)")
    parser.add_argument("--prior-epochs", type=int, default=15, help="of the second stage (default: 15)")
    parser.add_argument("--batch-size", type=int, default=100, help="images a step (default: 100)")
    parser.add_argument("--lr", type=float, default=2e-3,
                        help="Adam's learning rate, falling to zero by a cosine in each stage "
                             "(default: 0.002)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
                        help="auto takes a GPU where there is one (default: auto)")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="folder for the results (default: a new one under runs/)")
    args = parser.parse_args(argv)
    for name in ("epochs", "prior_epochs", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name.replace('_', '-')}: found {getattr(args, name)}, expected 1 or more")
    return args


def configure(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Return the settings, in the form that ``load_data`` reads, and the folder."""
    config = {name: value for name, value in vars(args).items() if name != "out"} | {"binarize": "auto"}
    if args.data_root:
        config["data_root"] = str(Path(args.data_root).resolve())
    folder = Path(args.out) if args.out else new_folder(f"vq-{args.data}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"--out: found files in {folder}, expected a new folder")
    return config | {"pyro_vae": pyro_vae.__version__, "torch": torch.__version__}, folder


def train(vq: VQVAE, splits: pyro_vae.data.Splits, num_epochs: int, config: dict[str, Any], folder: Path) -> Any:
    """Train; return the program of the best epoch and the records of all, or ``None`` if interrupted."""
    history = pyro_vae.fit(
        vq.model, vq.guide, splits, num_epochs=num_epochs, batch_size=config["batch_size"],
        lr=lambda done: config["lr"] * 0.5 * (1 + math.cos(math.pi * done)), seed=config["seed"], checkpoint=folder,
    )  # fmt: skip
    if history.interrupted:
        return None
    return pyro_vae.load(folder).to(next(vq.parameters()).device), history.records


def with_new_prior(vq: VQVAE, splits: pyro_vae.data.Splits, config: dict[str, Any]) -> VQVAE:
    """Return a program with the same codes, frozen, and an autoregressive prior that is yet to be trained."""
    for part in (vq.encoder, vq.likelihood):
        part.requires_grad_(False)
    code_shape = vq.codes(splits.test[:1]).shape[1:]
    prior = AutoregressiveCodes(code_shape, config["num_codes"], config["hidden_dim"]).to(vq.codebook.vectors)
    return VQVAE(
        splits.data_shape, likelihood=vq.likelihood, prior=prior, encoder=vq.encoder, codebook=vq.codebook,
        commitment=config["commitment"],
    )  # fmt: skip


def bound(vq: VQVAE, splits: pyro_vae.data.Splits) -> float:
    """Return the mean bound of the test images, nats; its guide draws nothing, so it has no Monte Carlo error."""
    return pyro_vae.log_likelihood(vq.model, vq.guide, splits.test, num_particles=1).mean()


def run(config: dict[str, Any], splits: pyro_vae.data.Splits, folder: Path) -> dict[str, Any] | None:
    """Train, score and draw both stages; return the metrics, or ``None`` if interrupted."""
    torch.manual_seed(config["seed"])
    sizes = {name: config[name] for name in ("num_codes", "code_dim", "channels", "commitment")}
    independent = VQVAE(splits.data_shape, **sizes).to(best_device(config["device"]))
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    stages = []
    for stage in ("codes", "prior"):
        vq = independent if stage == "codes" else with_new_prior(independent, splits, config)
        num_epochs = config["epochs" if stage == "codes" else "prior_epochs"]
        trained = train(vq, splits, num_epochs, config, folder / stage)
        if trained is None:
            return None
        vq, records = trained
        independent = vq if stage == "codes" else independent
        stages += [{"stage": stage} | record for record in records]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in stages))
    pyro_vae.save(vq, folder)
    torch.manual_seed(config["seed"])
    x = splits.test[:10]
    figures = {"reconstructions": plots.reconstructions(x, vq.reconstruct(x))}
    for name, program in (("samples", vq), ("samples_independent", independent)):
        figures[name] = plots.samples(program.sample(100, mean=True))
    for name, figure in figures.items():
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150)
    test_elbo = bound(vq, splits)
    metrics = {
        "test_elbo": test_elbo,
        "test_elbo_independent": bound(independent, splits),
        "test_log_likelihood": test_elbo,  # no more can be had from a one-point guide
        "test_log_likelihood_error": 0.0,
        "num_particles": 1,
        "perplexity": perplexity(vq, splits.test),
        "num_codes": config["num_codes"],
        "active_units": sum(pyro_vae.active_units(vq.guide, splits.test).values()),
        "training_seconds": round(sum(record["seconds"] for record in stages), 3),
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        config, folder = configure(args)
        metrics = run(config, load_data(config), folder)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"vq_vae.py: {error}", file=sys.stderr)
        return 2
    if metrics is None:
        print("interrupted", file=sys.stderr)
        return 130
    print("test bound, independent prior     {test_elbo_independent:9.2f} nats per image".format(**metrics))
    print("test bound, autoregressive prior  {test_elbo:9.2f} nats per image".format(**metrics))
    print("perplexity of the codes           {perplexity:9.1f} of {num_codes}".format(**metrics))
    print(f"weights, metrics and pictures are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
