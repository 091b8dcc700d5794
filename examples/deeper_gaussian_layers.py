"""Compare one layer of Gaussian latents with two: equal where the layers are linear, measured where they are networks.

    python examples/deeper_gaussian_layers.py              # 8 x 8 digits, some 20 seconds, nothing to download
    python examples/deeper_gaussian_layers.py --data mnist --data-root DATA --epochs 60 --num-particles 1000

1. Linear layers of fixed covariance, z2 ~ N(0, I), z1 ~ N(A z2 + b, S), x ~ N(W z1 + c, R). Then z1 is N(b, A Aᵀ + S)
   without any z2, and a model of that one layer has the same log-likelihood: the same number for each image, up to the
   rounding of float64. The guides are the exact posteriors, so every importance weight is log p(x) itself.

2. Networks inside: p(z1) is a mixture of Gaussians, one for each z2. A flat VAE and one of two layers are trained
   alike, the flat one's hidden layers as wide as gives both the same number of parameters, within 1 %. Which is better
   is a matter of the data and the training: small images and few epochs may well say that it is one layer.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae
from pyro_vae.display import rounded_error, with_error

# Of each data set: latent_dims and hidden_dims of two layers, latent_dim of the flat VAE.
SMALL, LARGE = ((20, 10), ((50, 50), (25, 25)), 10), ((100, 50), ((200, 200), (100, 100)), 50)
SIZES = {"digits": SMALL, "mnist": LARGE, "fashion_mnist": LARGE}


class Affine(nn.Module):
    """N(W y + b, covariance), or N(b, covariance) without a y."""

    def __init__(self, bias: Tensor, covariance: Tensor, weight: Tensor | None = None) -> None:
        super().__init__()
        for name, value in (("bias", bias), ("covariance", covariance), ("weight", weight)):
            self.register_buffer(name, value)

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        loc = self.bias if y is None else self.bias + y @ self.weight.T
        return dist.MultivariateNormal(loc, covariance_matrix=self.covariance)

    def marginal(self, prior: Affine) -> Affine:
        """Return p(v), with y ~ prior integrated out."""
        covariance = self.weight @ prior.covariance @ self.weight.T + self.covariance
        return Affine(self.weight @ prior.bias + self.bias, covariance)

    def posterior(self, prior: Affine) -> Affine:
        """Return p(y|v), for this p(v|y) = N(v; W y + b, covariance) and y ~ prior."""
        marginal = self.marginal(prior)
        gain = torch.linalg.solve(marginal.covariance, self.weight @ prior.covariance).T
        covariance = prior.covariance - gain @ self.weight @ prior.covariance
        return Affine(prior.bias - gain @ marginal.bias, (covariance + covariance.T) / 2, gain)


def linear_layers(x: Tensor, latent_dims: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Return log p(x) of data ``(N, D)`` under two random linear layers and under the one they equal, ``(N,)`` each."""
    random, first, second = torch.Generator().manual_seed(seed), *latent_dims

    def layer(size: int, above: int) -> Affine:
        weight = torch.randn(size, above, generator=random, dtype=torch.float64) / math.sqrt(above)
        variance = 0.5 + torch.rand(size, generator=random, dtype=torch.float64)
        return Affine(torch.rand(size, generator=random, dtype=torch.float64), torch.diag(variance), weight)

    likelihood, transition = layer(x.shape[1], first), layer(first, second)
    prior = Affine(torch.zeros(second, dtype=torch.float64), torch.eye(second, dtype=torch.float64))
    collapsed = transition.marginal(prior)
    posteriors = [likelihood.posterior(collapsed), transition.posterior(prior)]
    two = pyro_vae.HVAE(prior=prior, transitions=[transition], likelihood=likelihood, posteriors=posteriors)
    one = pyro_vae.VAE(prior=collapsed, likelihood=likelihood, posterior=posteriors[0])
    return tuple(pyro_vae.log_likelihood(each.model, each.guide, x, 2, seed=seed).values for each in (two, one))


def count(program: nn.Module) -> int:
    return sum(parameter.numel() for parameter in program.parameters())


def width_for(num_parameters: int, data_dim: int, latent_dim: int) -> int:
    """Return the width of two hidden layers with which a flat VAE comes nearest to that number of parameters."""
    ends = data_dim + 2 * latent_dim  # what the two networks put out; they take in data and latents
    sizes = {w: (data_dim + latent_dim + 2) * w + 2 * (w + 1) * w + (w + 1) * ends for w in range(1, 5000)}
    return min(sizes, key=lambda width: abs(sizes[width] - num_parameters))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SIZES), default="digits", help="images (default: digits)")
    parser.add_argument("--data-root", metavar="DIR", help="folder with the data files, or where to download them to "
                        "(default: $PYRO_VAE_DATA, else a cache folder)")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=50, help="passes over the training images (default: 50)")
    parser.add_argument("--num-particles", type=int, default=200,
                        help="importance samples per test image for log p(x), 2 or more (default: 200)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    args = parser.parse_args(argv)
    for name, least in (("epochs", 1), ("num_particles", 2), ("seed", 0)):
        if not least <= (value := getattr(args, name)) < 2**32:
            parser.error(f"--{name.replace('_', '-')}: found {value}, expected {least} or more and below 2**32")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        splits = pyro_vae.data.load(args.data, args.data_root)
    except (ValueError, OSError, ImportError) as error:
        print(f"deeper_gaussian_layers.py: {error}", file=sys.stderr)
        return 2
    latent_dims, hidden_dims, latent_dim = SIZES[args.data]
    x = splits.test[:2000]
    images = x[:250].double().flatten(1)
    two, one = linear_layers(images, latent_dims, args.seed)
    print(f"1. Linear layers, not trained: mean log p(x) of {len(images)} test images, nats per image")
    print(f"   two layers {two.mean().item():.10f}, one layer {one.mean().item():.10f}")
    print(f"   largest difference of an image {(two - one).abs().max().item():.1e}")

    torch.manual_seed(args.seed)
    deep = pyro_vae.HVAE(splits.data_shape, latent_dims, hidden_dims)
    width = width_for(count(deep), math.prod(splits.data_shape), latent_dim)
    flat = pyro_vae.VAE(splits.data_shape, latent_dim, (width, width))
    print(f"2. Networks, {args.epochs} epochs each; log p(x) of {len(x)} test images, K = {args.num_particles}")
    print("                 latents   parameters            log p(x)   median k-hat")
    scores = []
    for name, program, sizes in (("one layer", flat, [latent_dim]), ("two layers", deep, latent_dims)):
        program.likelihood.start_at_mean(splits.train.mean())
        history = pyro_vae.fit(
            program.model, program.guide, splits, num_epochs=args.epochs, seed=args.seed,
            lr=lambda done: 2e-3 * 0.5 * (1 + math.cos(math.pi * done)),
        )  # fmt: skip
        if history.interrupted:
            return 130
        score = pyro_vae.log_likelihood(program.model, program.guide, x, args.num_particles, seed=args.seed)
        latents, mean = " + ".join(map(str, sizes)), with_error(score.mean(), score.mean_error(), score.mark)
        print(f"   {name:12}{latents:>9}   {count(program):10,}   {mean:>17}   {score.khat.median().item():12.2f}")
        if score.mark:
            print(f"   {score.caveat()}")
        scores.append(score)
    gain = scores[1].values - scores[0].values
    monte_carlo = math.hypot(*(score.mean_error() for score in scores))
    over_images = gain.std().item() / math.sqrt(len(gain))
    print(
        f"   two layers - one: {with_error(gain.mean().item(), monte_carlo)} (the estimates' Monte Carlo error), "
        f"± {rounded_error(over_images)} (the choice of images);"
        "\n   neither covers the luck of training: try other seeds"
    )
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # layers this small gain little from more, and lose much where cores are busy
    sys.exit(main())
