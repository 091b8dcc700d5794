"""Train and score a VAE with Pyro alone, and compare its numbers with those of the package.

    python examples/plain_pyro.py                      # about 20 seconds on two cores, nothing to download
    python examples/plain_pyro.py --epochs 200 --seed 1

Everything up to ``compare`` uses only Pyro, torch and scikit-learn's 8 x 8 digits, to show what pyro_vae does for you.
``compare`` hands that very pair of programs to the package: with the same seed its log weights and ELBO are equal to
float precision, with its own draws its log-likelihood is equal within the error bars.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from sklearn.datasets import load_digits
from torch import Tensor, nn

LATENT_DIM, HIDDEN_DIM, BATCH_SIZE = 10, 200, 100


def network(*widths: int) -> nn.Sequential:
    """Make affine layers with tanh between them."""
    layers = [[nn.Linear(a, b), nn.Tanh()] for a, b in pairwise(widths)]
    return nn.Sequential(*[layer for pair in layers for layer in pair][:-1])


class Model(PyroModule):
    """p(x, z): z ~ N(0, I), and black or white pixels x ~ Bernoulli(sigmoid(decoder(z)))."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = network(LATENT_DIM, HIDDEN_DIM, HIDDEN_DIM, 64)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT_DIM), 1.0).to_event(1))  # (B, 10) or (K, B, 10)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z|x) = N(z; μ(x), diag σ²(x)), with log σ within ±7, so that exp(log σ) never overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = network(64, HIDDEN_DIM, HIDDEN_DIM, 2 * LATENT_DIM)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            loc, raw = self.encoder(x).chunk(2, -1)  # (B, 10) each
            pyro.sample("z", dist.Normal(loc, (7 * torch.tanh(raw / 7)).exp()).to_event(1))


def train(model: Model, guide: Guide, grey: Tensor, num_epochs: int) -> None:
    """Maximise the ELBO by stochastic gradients; each use of an image draws its pixels anew."""
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    for epoch in range(1, num_epochs + 1):
        loss = 0.0
        for rows in torch.randperm(len(grey)).split(BATCH_SIZE):
            loss += svi.step(torch.bernoulli(grey[rows]))
        if epoch in (1, num_epochs) or epoch % 20 == 0:
            print(f"epoch {epoch:4d}  training ELBO {-loss / len(grey):8.2f} nats per image")


@torch.no_grad()
def log_weights(model: Model, guide: Guide, x: Tensor, num_particles: int) -> Tensor:
    """Return log p(x, z) - log q(z|x) with z ~ q(z|x), ``(K, B)``; a second plate draws all K particles at once."""
    with pyro.plate("particles", num_particles, dim=-2):
        guide_trace = poutine.trace(guide).get_trace(x)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    p, q = model_trace.nodes, guide_trace.nodes
    return p["x"]["log_prob"] + p["z"]["log_prob"] - q["z"]["log_prob"]


def log_mean_exp(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the estimate of log p(x) of each image and, by the delta method, its standard error, ``(B,)`` each."""
    w = (log_w - log_w.max(0).values).exp()
    return log_w.logsumexp(0) - math.log(len(log_w)), w.std(0) / (w.mean(0) * math.sqrt(len(w)))


def compare(model: Model, guide: Guide, x: Tensor, args: argparse.Namespace) -> dict[str, float]:
    """Score the test images by hand and by pyro_vae; print both and return the numbers, nats per image."""
    import pyro_vae
    from pyro_vae.display import with_error

    n, k = len(x), args.eval_particles
    torch.manual_seed(args.seed)
    elbo = -Trace_ELBO().loss(model, guide, x) / n
    torch.manual_seed(args.seed)
    packaged_elbo = pyro_vae.ELBO().bound(model, guide, x).mean().item()

    torch.manual_seed(args.seed)
    log_w = log_weights(model, guide, x, num_particles=50)
    torch.manual_seed(args.seed)
    weight_difference = (pyro_vae.log_weights(model, guide, x, num_particles=50) - log_w).abs().max().item()

    chunks = [log_weights(model, guide, x, len(chunk)) for chunk in torch.arange(k).split(100)]
    values, errors = log_mean_exp(torch.cat(chunks).double())  # (B,) each, from (K, B)
    by_hand, by_hand_error = values.mean().item(), errors.norm().item() / n
    score = pyro_vae.log_likelihood(model, guide, x, num_particles=k, seed=args.seed + 1)
    within = ((score.values - values).abs() < 2 * score.std_error.hypot(errors)).double().mean().item()

    print(f"\n{n} test images, nats per image        Pyro alone            pyro_vae")
    print(f"ELBO, one draw, same seed      {elbo:16.6f}    {packaged_elbo:16.6f}")
    print(f"log p(x), K = {k:<6d}           {with_error(by_hand, by_hand_error):>16}", end="    ")
    print(with_error(score.mean(), score.mean_error(), score.mark))
    print(f"Same seed, 50 particles: the largest difference of a log weight is {weight_difference:.1e} nats.")
    print(f"Own draws: {within:.1%} of the images agree on log p(x) within two standard errors of their difference.")
    print("\n".join(filter(None, ("± is the Monte Carlo error for these images.", score.caveat()))))
    return {
        "elbo": elbo,
        "packaged_elbo": packaged_elbo,
        "weight_difference": weight_difference,
        "log_likelihood": by_hand,
        "log_likelihood_error": by_hand_error,
        "packaged_log_likelihood": score.mean(),
        "packaged_log_likelihood_error": score.mean_error(),
        "images_within_two_errors": within,
    }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60, help="passes over the 1,547 training images (default: 60)")
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


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train on 1,547 digits and compare on the other 250."""
    args = parse(argv)
    # Pyro keeps parameters in one global store and torch one global generator: give both back as they were.
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        grey = torch.from_numpy(load_digits().data).float() / 16  # (1797, 64), in [0, 1]
        grey = grey[torch.randperm(len(grey))]
        x = torch.bernoulli(grey[-250:])  # the test bits, drawn once
        model, guide = Model(), Guide()
        train(model, guide, grey[:-250], args.epochs)
        return compare(model, guide, x, args)


if __name__ == "__main__":
    torch.set_num_threads(1)  # layers this small gain nothing from more, and lose much where cores are busy
    main()
