"""Write a guide of your own, train it with the packaged model, and let the package say what it is worth.

    python examples/custom_guide.py                    # under a minute on two cores, nothing to download
    python examples/custom_guide.py --epochs 200 --seed 1

A guide is any PyroModule that is called with x, opens the data plate and samples the model's latents. The one below, a
dozen lines of code, is a Gaussian with a full covariance matrix: unlike the packaged diagonal one, it can say that two
latents are correlated given an image. Three pairs are scored on the test images of scikit-learn's 8 x 8 digits:

       model trained with   guide
    1  diagonal             diagonal    trained together
    2  full                 full        trained together, from the same decoder
    3  full                 diagonal    a diagonal guide fitted to the model of line 2, which stays as it is

log p(x) belongs to the model, so lines 2 and 3 agree on it, whichever guide proposes the samples, as long as k-hat is
below 0.7 (with --epochs 1 it is not: the estimates are then too low, and by more than their ± tells). The ELBO belongs
to the pair: it lies below log p(x) by KL(q(z|x) || p(z|x)), the price of the guide. Do not expect line 2 to beat line
1, though. A decoder arranges its latents for the guide it is trained with, and one that had a diagonal guide has
latents that a diagonal guide describes well; line 3 shows the price where the decoder had no reason to.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

import pyro_vae
from pyro_vae.display import with_error
from pyro_vae.runtime.state import seeded

LATENT_DIM, HIDDEN_DIMS = 10, (200, 200)


class FullCovarianceGuide(PyroModule):
    r"""q(z|x) = N(z; μ(x), L(x) L(x)ᵀ), where L(x) = diag σ(x) · U(x), and U has ones on its diagonal and zeros above.

    log σ is kept within ±5 and the entries of U within ±3, so no image gives a matrix that is singular or NaN.
    """

    def __init__(self, data_shape: tuple[int, ...], latent_dim: int, hidden_dims: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = pyro_vae.MLP(data_shape, (2 + latent_dim, latent_dim), hidden_dims)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            output = self.encoder(x)  # (B, 2 + D, D)
            loc, log_scale, lower = output[:, 0], 5 * torch.tanh(output[:, 1] / 5), 3 * torch.tanh(output[:, 2:] / 3)
            unit = lower.tril(-1) + torch.eye(loc.shape[-1]).to(loc)  # (B, D, D)
            scale_tril = log_scale.exp().unsqueeze(-1) * unit  # (B, D, D)
            return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale_tril))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60, help="passes over the 1,297 training images (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    parser.add_argument("--eval-particles", type=int, default=2000,
                        help="importance samples per test image for log p(x), 2 or more (default: 2000)")  # fmt: skip
    args = parser.parse_args(argv)
    for name, value, least in (("epochs", args.epochs, 1), ("eval-particles", args.eval_particles, 2)):
        if value < least:
            parser.error(f"argument --{name}: found {value}, expected {least} or more")
    if not 0 <= args.seed < 2**32:
        parser.error(f"argument --seed: found {args.seed}, expected 0 or more and below 2**32")
    return args


def score(
    model: PyroModule, guide: PyroModule, x: Tensor, args: argparse.Namespace
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Score a pair; return the numbers of each image, ``(N,)``, and the line of the table with Monte Carlo errors."""
    with seeded(args.seed), torch.no_grad():
        log_w = pyro_vae.log_weights(model, guide, x, num_particles=200).double()  # (200, N)
    estimate = pyro_vae.log_likelihood(model, guide, x, args.eval_particles, seed=args.seed)
    elbo, elbo_error = log_w.mean(0), log_w.std(0) / math.sqrt(len(log_w))  # (N,) each
    values = {"elbo": elbo, "log_likelihood": estimate.values, "gap": estimate.values - elbo}
    errors = {"elbo": elbo_error, "log_likelihood": estimate.std_error, "gap": elbo_error.hypot(estimate.std_error)}
    line: dict[str, Any] = {name: value.mean().item() for name, value in values.items()}
    line |= {f"{name}_error": error.norm().item() / len(x) for name, error in errors.items()}
    line |= {"median_ess": estimate.ess.median().item(), "median_khat": estimate.khat.median().item()}
    line["caveat"] = estimate.caveat()
    return values, line


def paired(values: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean difference of two pairs over the images, and its standard error over the choice of images."""
    differences = {name: values[name] - others[name] for name in values}
    errors = {f"{name}_error": d.std().item() / math.sqrt(len(d)) for name, d in differences.items()}
    return {name: d.mean().item() for name, d in differences.items()} | errors


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Train and score the three pairs; print the table and return its numbers, nats per image."""
    args = parse(argv)
    digits = pyro_vae.data.load("digits")
    x = digits.test[:]  # (250, 8, 8), bits drawn once
    sizes = (digits.data_shape, LATENT_DIM, HIDDEN_DIMS)
    with seeded(args.seed):
        diagonal = pyro_vae.VAE(*sizes)
        diagonal.likelihood.start_at_mean(digits.train.mean())
        full = copy.deepcopy(diagonal.model), FullCovarianceGuide(*sizes)
        refitted = full[0], pyro_vae.VAE(*sizes).guide

    def fit(model: PyroModule, guide: PyroModule, train_model: bool = True) -> None:
        parameters = [*(model.parameters() if train_model else ()), *guide.parameters()]
        history = pyro_vae.fit(
            model,
            guide,
            digits,
            num_epochs=args.epochs,
            lr=lambda done: 1e-3 * 0.5 * (1 + math.cos(math.pi * done)),
            optimizer=lambda _, lr: torch.optim.Adam(parameters, lr=lr, fused=True),
            seed=args.seed,
        )
        if history.interrupted:
            sys.exit(130)

    fit(diagonal.model, diagonal.guide)
    fit(*full)
    fit(*refitted, train_model=False)

    values, table = {}, {}
    pairs = {"diagonal": (diagonal.model, diagonal.guide), "full": full, "refitted": refitted}
    for name, pair in pairs.items():
        values[name], table[name] = score(*pair, x, args)
    table["full - diagonal"] = paired(values["full"], values["diagonal"])
    table["refitted - full"] = paired(values["refitted"], values["full"])

    print(f"{len(x)} test images, {args.epochs} epochs, K = {args.eval_particles} importance samples; nats per image")
    print("   trained with  guide           ELBO             log p(x)      log p(x) - ELBO      ESS  k-hat  (medians)")
    labels = ("1  diagonal      diagonal", "2  full          full", "3  full          diagonal", "2 - 1", "3 - 2")
    for label, line in zip(labels, table.values(), strict=True):
        cells = "  ".join(f"{with_error(line[name], line[f'{name}_error']):>16}" for name in values["full"])
        weights = f"  {line['median_ess']:6.0f}  {line['median_khat']:5.2f}" if "median_ess" in line else ""
        print(f"{label:26}{cells}{weights} {line.get('caveat', '')}".rstrip())
    print(
        "± of lines 1 to 3 is the Monte Carlo error for these images; that of the differences is their standard error"
    )
    print("over the choice of test images. Neither covers the luck of training: try other seeds.")
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)  # layers this small gain nothing from more, and lose much where cores are busy
    main()
