"""Learn to classify images from a hundred labels and many images without one: the M2 of Kingma et al. (2014).

    python examples/semi_supervised.py                                    # 8 x 8 digits, nothing to download
    python examples/semi_supervised.py --data mnist --data-root DATA      # ten minutes on two cores
    python examples/semi_supervised.py --num-labels 20 --seed 1           # two of each class

The seed chooses as many labelled images of each class; all other training images are used without their labels. Labels
of validation and test images serve only to report errors: the last weights are the result.

The results go to a new folder under runs/: config.json, metrics.jsonl (an epoch a line), metrics.json (the final
scores, nats per image), checkpoint.safetensors and the pictures; in samples.png each row is a class. Ctrl-C stops
cleanly and keeps the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import pyro_vae
from pyro_vae import plots
from pyro_vae.commands.runs import best_device
from pyro_vae.commands.settings import new_folder
from pyro_vae.commands.summary import print_scores
from pyro_vae.data.split import Split
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.nn.layers import Activation
from pyro_vae.runtime.files import replacing, write_text
from pyro_vae.schedules import Linear

NUM_CLASSES = 10
UNLABELLED = 1  # images without a label for each that has one, about


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "mnist", "fashion_mnist"], default="digits",
                        help="images, made black and white anew at each use (default: digits)")  # fmt: skip
    parser.add_argument("--data-root", metavar="DIR", help="folder with the data files, or where to download them to "
                        "(default: $PYRO_VAE_DATA, else a cache folder)")  # fmt: skip
    parser.add_argument("--num-labels", type=int, default=100, help="training images with a label, as many of each of "
                        "the ten classes (default: 100)")  # fmt: skip
    parser.add_argument("--latent-dim", type=int, default=50, help="length of the latent z (default: 50)")
    parser.add_argument("--hidden-dims", type=int, nargs="*", metavar="WIDTH", default=[300],
                        help="hidden layers of encoder, classifier and, reversed, decoder (default: 300)")  # fmt: skip
    parser.add_argument("--alpha", type=float, default=1.0,
                        help="weight of the labels' mean log q(y|x) beside the mean bound; Kingma et al. have 0.1 "
                             "(default: 1)")  # fmt: skip
    parser.add_argument("--kl-weight", type=float, default=5.0,
                        help="weight of the KL of z at first, which leaves to the label what the label can say; it "
                             "falls to 1 over the first 70 %% of training (default: 5)")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="passes over the images without labels (default: 100 for digits, "
                        "else 12)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=100,
                        help="images a step without labels, beside some ten that have one "
                             "(default: 100)")  # fmt: skip
    parser.add_argument("--lr", type=float, default=2e-3,
                        help="Adam's learning rate, falling to zero by a cosine (default: 0.002)")  # fmt: skip
    parser.add_argument("--eval-particles", type=int, default=100,
                        help="importance samples per test image for log p(x) (default: 100)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
                        help="auto takes a GPU where there is one (default: auto)")  # fmt: skip
    parser.add_argument("--activation", choices=get_args(Activation), default="relu",
                        help="of the hidden layers (default: relu)")  # fmt: skip
    parser.add_argument("--compile", choices=["auto", "yes", "no"], default="auto",
                        help="compile the training step; auto does for long runs (default: auto)")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="folder for the results (default: a new one under runs/)")
    args = parser.parse_args(argv)
    args.epochs = (100 if args.data == "digits" else 12) if args.epochs is None else args.epochs
    for name, least in (("num_labels", NUM_CLASSES), ("latent_dim", 1), ("epochs", 1), ("batch_size", 1),
                        ("eval_particles", 2)):  # fmt: skip
        if getattr(args, name) < least:
            parser.error(f"argument --{name.replace('_', '-')}: found {getattr(args, name)}, expected {least} or more")
    if args.num_labels % NUM_CLASSES:
        parser.error(f"argument --num-labels: found {args.num_labels}, expected a multiple of {NUM_CLASSES}")
    return args


class PartlyLabelled(Dataset[Tensor]):
    """All images without a label, and then some with theirs, as often as they are named; packed batch by batch."""

    def __init__(self, m2: pyro_vae.M2, images: Split, labelled: Tensor) -> None:
        self.m2, self.images = m2, images
        self.rows = torch.cat([torch.arange(len(images)), labelled])
        self.labels = torch.cat([torch.full((len(images),), -1), images.labels[labelled]])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, index: list[int]) -> Tensor:
        """Return a batch, which a loader asks for at once; its pixels are drawn anew."""
        return self.m2.pack(self.images[self.rows[index]], self.labels[index])


def choose(train: Split, num_labels: int, seed: int) -> Tensor:
    """Return the rows of ``num_labels`` images, as many of each class, chosen by the seed."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    rows = [order[train.labels[order] == c][: num_labels // NUM_CLASSES] for c in range(NUM_CLASSES)]
    if min(map(len, rows)) < num_labels // NUM_CLASSES:
        raise ValueError(f"--num-labels: found {num_labels}, expected at most {NUM_CLASSES * min(map(len, rows))}")
    return torch.cat(rows)


def train(m2: pyro_vae.M2, data: Any, labelled: Tensor, args: argparse.Namespace, folder: Path) -> pyro_vae.History:
    """Train; write a record of each epoch."""
    num_images = len(data.train)
    labelled = labelled.repeat(max(1, round(num_images / UNLABELLED / len(labelled))))
    images = PartlyLabelled(m2, data.train, labelled)
    batch_size = round(args.batch_size * len(images) / num_images)
    loader = DataLoader(images, batch_size, shuffle=True, drop_last=True, collate_fn=lambda batch: batch)
    kl_weight = Linear(max(1, int(0.7 * args.epochs * len(loader))), start=args.kl_weight, end=1.0)
    records: list[dict[str, Any]] = []

    def write(record: dict[str, Any]) -> None:
        record["valid_error"] = error(m2, data.valid)
        records.append(record)
        write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in records))

    return pyro_vae.fit(
        *pyro_vae.anneal_kl(m2.model, m2.guide, kl_weight),
        loader,
        objective=pyro_vae.SemiSupervised(alpha=args.alpha * num_images / len(labelled)),
        num_epochs=args.epochs,
        lr=lambda fraction: args.lr * 0.5 * (1 + math.cos(math.pi * fraction)),
        valid=data.valid,
        compile={"auto": "auto", "yes": True, "no": False}[args.compile],
        callbacks=[write],
    )


def error(m2: pyro_vae.M2, split: Split) -> float:
    """Return the fraction of data that are classified wrongly."""
    found = torch.cat([m2.classify(part) for part in split[:].split(1000)])
    return (found != split.labels).float().mean().item()


def score(m2: pyro_vae.M2, test: Split, args: argparse.Namespace) -> dict[str, Any]:
    estimate = pyro_vae.log_likelihood(
        m2.model, m2.guide, test, args.eval_particles, seed=args.seed, progress=True, compile=False
    )
    return {
        "test_error": error(m2, test),
        "test_elbo": mean_bound(m2.model, m2.guide, test, pyro_vae.SemiSupervised(0.0), seed=args.seed),
        "test_log_likelihood": estimate.mean(),
        "test_log_likelihood_error": estimate.mean_error(),
        "num_particles": args.eval_particles,
        "caveat": estimate.caveat(),
        "active_units": sum(pyro_vae.active_units(m2.guide, m2.pack(test[:], test.labels)).values()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        device = best_device(args.device)
        folder = Path(args.out) if args.out else new_folder(f"m2-{args.data}")
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"--out: found files in {folder}, expected a new folder")
        data = pyro_vae.data.load(args.data, args.data_root, seed=args.seed)
        labelled = choose(data.train, args.num_labels, args.seed)
        torch.manual_seed(args.seed)
        m2 = pyro_vae.M2(data.data_shape, NUM_CLASSES, args.latent_dim, args.hidden_dims, activation=args.activation)
        m2.likelihood.start_at_mean(data.train.mean())
        m2.to(device)
        folder.mkdir(parents=True, exist_ok=True)
        config = vars(args) | {"out": str(folder), "pyro_vae": pyro_vae.__version__, "torch": torch.__version__}
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        print(f"{len(data.train)} training data {data.data_shape}, {len(labelled)} of them with labels; results in "
              f"{folder}", flush=True)  # fmt: skip
        history = train(m2, data, labelled, args, folder)
    except (ValueError, OSError, ImportError, FloatingPointError) as problem:
        print(f"semi_supervised.py: {problem}", file=sys.stderr)
        return 2
    pyro_vae.save(m2, folder)
    if history.interrupted:
        print(f"interrupted; the weights so far are in {folder}", file=sys.stderr)
        return 130
    metrics = score(m2, data.test.to(device), args)
    metrics["training_seconds"] = round(sum(record["seconds"] for record in history.records), 3)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    classes = torch.arange(NUM_CLASSES).repeat_interleave(10)
    samples = plots.samples(m2.sample(len(classes), y=classes, mean=True))
    for name, figure in (("learning_curve", plots.learning_curve(history.records)), ("samples", samples)):
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150)
    print("test error           {test_error:9.2%}".format(**metrics))
    print_scores(metrics)
    print(f"weights, metrics and pictures are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
