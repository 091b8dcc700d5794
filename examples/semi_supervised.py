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
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm
from train_vae import best_device, print_scores
from train_vae_settings import new_folder

import pyro_vae
from pyro_vae import plots
from pyro_vae.compilation import Compiled, make_reporter
from pyro_vae.data.split import Split
from pyro_vae.nn.layers import Activation
from pyro_vae.objectives.labels import enumerated_bound, semi_supervised_loss
from pyro_vae.runtime.files import replacing, write_text
from pyro_vae.runtime.state import evaluating, interruptible
from pyro_vae.schedules import Linear, Schedule

NUM_CLASSES = 10


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
                        help="weight of the classifier's log-likelihood of the labels (default: 1)")  # fmt: skip
    parser.add_argument("--kl-weight", type=float, default=5.0,
                        help="weight of the KL of z at first, which leaves to the label what the label can say; it "
                             "falls to 1 over the first 70 %% of training (default: 5)")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="passes over the images without labels (default: 100 for digits, "
                        "else 12)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=100,
                        help="images a step without labels, beside those that have one, 100 at most "
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


def with_labels(train: Split, num_labels: int, seed: int) -> Split:
    """Return ``num_labels`` images with their labels, as many of each class, chosen by the seed."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    rows = [order[train.labels[order] == c][: num_labels // NUM_CLASSES] for c in range(NUM_CLASSES)]
    if min(map(len, rows)) < num_labels // NUM_CLASSES:
        raise ValueError(f"--num-labels: found {num_labels}, expected at most {NUM_CLASSES * min(map(len, rows))}")
    chosen = torch.cat(rows)
    return Split(train.values[chosen], levels=train.levels, binarize=train.binarize, labels=train.labels[chosen])


def make_gradients(
    m2: pyro_vae.M2, alpha: float, kl_weight: Schedule, num_labelled: int
) -> Callable[[Tensor], list[Tensor]]:
    """Return a function from a batch, packed data whose first rows have labels, to the loss and its gradients."""
    parameters = list(m2.parameters())

    def gradients(batch: Tensor) -> list[Tensor]:
        x, y = batch[:, :-1].unflatten(1, m2.data_shape), batch[:num_labelled, -1].long()
        loss = semi_supervised_loss(m2, x[:num_labelled], y, x[num_labelled:], alpha, kl_weight.value)
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    return gradients


def train(
    m2: pyro_vae.M2, data: Any, labelled: Split, args: argparse.Namespace, folder: Path
) -> tuple[list[dict[str, Any]], bool]:
    """Train; return a record of each epoch, and whether Ctrl-C ended it."""
    device = labelled.device
    unlabelled, valid = data.train.to(device), data.valid.to(device)
    num_labelled = min(len(labelled), 100)
    parameters = list(m2.parameters())
    optimizer = torch.optim.Adam(parameters, lr=args.lr, fused=True)
    num_steps = args.epochs * (len(unlabelled) // args.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / num_steps)))
    kl_weight = Linear(max(1, int(0.7 * num_steps)), start=args.kl_weight, end=1.0).to(device)
    records: list[dict[str, Any]] = []
    started = time.monotonic()
    with (
        pyro.validation_enabled(False),
        interruptible() as interrupted,
        tqdm(total=num_steps, unit="step", mininterval=0.5) as bar,
    ):
        gradients: Any = make_gradients(m2, args.alpha, kl_weight, num_labelled)
        if args.compile == "yes" or (args.compile == "auto" and num_steps >= 10_000):
            gradients = Compiled(
                gradients, (m2.model, m2.guide, kl_weight), name="training step", say=make_reporter(progress=True)
            )
        for epoch in range(1, args.epochs + 1):
            total = torch.zeros((), device=device)
            for x in unlabelled.batches(args.batch_size, drop_last=True):
                rows = torch.randperm(len(labelled))[:num_labelled].to(device)
                known = m2.pack(labelled[rows], labelled.labels[rows])
                others = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)
                loss, *found = gradients(torch.cat([known, others]))
                for parameter, gradient in zip(parameters, found, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                rate.step()
                kl_weight.step()
                total += loss
                bar.update()
                if interrupted.is_set():
                    return records, True
            record = {"epoch": epoch, "loss": total.item() / (len(unlabelled) // args.batch_size)}
            record |= {"train_bound": bound(m2, unlabelled[: len(valid)]), "valid_bound": bound(m2, valid[:])}
            record |= {"valid_error": error(m2, valid), "seconds": round(time.monotonic() - started, 1)}
            bar.set_postfix({"bound": f"{record['valid_bound']:.2f}", "error": f"{record['valid_error']:.2%}"})
            if not math.isfinite(record["loss"] + record["valid_bound"]):
                raise FloatingPointError(f"epoch {epoch}: found the loss {record['loss']}, expected a finite number")
            records.append(record)
            write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in records))
    return records, False


@torch.no_grad()
def bound(m2: pyro_vae.M2, x: Tensor) -> float:
    """Return the mean bound of data without labels, nats."""
    with evaluating(m2):
        return torch.cat([enumerated_bound(m2, part) for part in x.split(500)]).mean().item()


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
        "test_elbo": bound(m2, test[:]),
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
        labelled = with_labels(data.train, args.num_labels, args.seed).to(device)
        torch.manual_seed(args.seed)
        m2 = pyro_vae.M2(data.data_shape, NUM_CLASSES, args.latent_dim, args.hidden_dims, activation=args.activation)
        m2.likelihood.start_at_mean(data.train.mean())
        m2.to(device)
        folder.mkdir(parents=True, exist_ok=True)
        config = vars(args) | {"out": str(folder), "pyro_vae": pyro_vae.__version__, "torch": torch.__version__}
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        print(f"{len(data.train)} training data {data.data_shape}, {len(labelled)} of them with labels; results in "
              f"{folder}", flush=True)  # fmt: skip
        records, interrupted = train(m2, data, labelled, args, folder)
    except (ValueError, OSError, ImportError, FloatingPointError) as problem:
        print(f"semi_supervised.py: {problem}", file=sys.stderr)
        return 2
    pyro_vae.save(m2, folder)
    if interrupted:
        print(f"interrupted; the weights so far are in {folder}", file=sys.stderr)
        return 130
    metrics = score(m2, data.test.to(device), args) | {"training_seconds": records[-1]["seconds"]}
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    classes = torch.arange(NUM_CLASSES).repeat_interleave(10)
    samples = plots.samples(m2.sample(len(classes), y=classes, mean=True))
    for name, figure in (("learning_curve", plots.learning_curve(records)), ("samples", samples)):
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150)
    print("test error           {test_error:9.2%}".format(**metrics))
    print_scores(metrics)
    print(f"weights, metrics and pictures are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
