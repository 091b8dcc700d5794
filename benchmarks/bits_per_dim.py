"""Compare the likelihoods of grey levels: bits per dimension of small VAEs, on faces and in colour.

    python benchmarks/bits_per_dim.py                      # colour patches; some minutes on two cores
    python benchmarks/bits_per_dim.py --data-root DATA     # Frey faces too

Four likelihoods on the same images, with the same convolutional encoder and decoder but for the last layer, which gives
each as many numbers a pixel as it takes; the same number of epochs, batches and seed:

mixture        DiscretizedLogisticMixture of 5; in colour the channels of a pixel depend on each other
logistic       DiscretizedLogistic
categorical    Categorical, 256 free probabilities a pixel
Gaussian       of dequantised levels: density in [0, 1), noise drawn anew at each use, once for the score; 8 bits added

The figure is the importance-weighted bound with K particles on held-out images, in bits per dimension, smaller is
better, with the standard error over images. The first three bound the probability of the levels; the last one also
bounds that of the noise. Uniform levels cost 8 bits. The models are small and trained for a short while: this compares
likelihoods, and shows none at its best.

Faces are Frey's, 28 x 20, split as pyro_vae.data.load does. Colour is 16 x 16 patches of scikit-learn's two sample
photographs, training patches from the left 448 columns, every 8 pixels, and test patches side by side from the other
192.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from timing import machine, table
from torch import Tensor, nn

import pyro_vae
from pyro_vae.data.loading import Split
from pyro_vae.display import with_error
from pyro_vae.likelihoods import Categorical, DiscretizedLogistic, DiscretizedLogisticMixture, Gaussian, Likelihood

NUM_COMPONENTS, PATCH = 5, 16
CHANNELS = (32, 64)  # of the encoder; the decoder has them in reverse

Make = Callable[[nn.Module | None, Sequence[int]], Likelihood]
LIKELIHOODS: dict[str, Make] = {
    "mixture": lambda network, shape: DiscretizedLogisticMixture(network, shape, NUM_COMPONENTS),
    "logistic": lambda network, shape: DiscretizedLogistic(network, shape),
    "categorical": lambda network, shape: Categorical(network, shape),
    "Gaussian": lambda network, shape: Gaussian(network, shape, mean="sigmoid", low=1e-3),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds the Frey faces; without it, colour alone")
    parser.add_argument("--steps", type=int, default=1000, help="at least so many steps of training (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=20, help="(default: 20)")
    parser.add_argument("--latent-dim", type=int, default=20, help="(default: 20)")
    parser.add_argument("--num-particles", type=int, default=50, help="K of the bound (default: 50)")
    parser.add_argument("--num-test", type=int, default=200, help="at most so many test images (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and draws (default: 0)")
    args = parser.parse_args(argv)
    for name in ("steps", "batch_size", "latent_dim", "num_particles", "num_test"):
        if getattr(args, name) < 1 + (name == "num_test"):
            parser.error(f"argument --{name.replace('_', '-')}: found {getattr(args, name)}, expected a larger number")
    return args


def patches(image: Tensor, stride: int) -> Tensor:
    """Return all patches ``(N, 3, 16, 16)`` of an image ``(3, H, W)`` that are ``stride`` pixels apart."""
    cut = image.unfold(1, PATCH, stride).unfold(2, PATCH, stride)  # (3, rows, columns, 16, 16)
    return cut.movedim(0, 2).reshape(-1, 3, PATCH, PATCH).contiguous()


def colour() -> tuple[Tensor, Tensor]:
    """Return training and test patches as bytes, from different parts of both photographs."""
    images = [torch.from_numpy(np.moveaxis(image, -1, 0).copy()) for image in load_sample_images().images]
    train = torch.cat([patches(image[..., :448], 8) for image in images])
    test = torch.cat([patches(image[..., 448:], PATCH) for image in images])
    return train, test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))]


def frey_faces(root: str) -> tuple[Tensor, Tensor]:
    splits = pyro_vae.data.load("frey_faces", root=root)
    return splits.train.values, splits.test.values


def make_vae(make: Make, data_shape: tuple[int, ...], latent_dim: int) -> pyro_vae.VAE:
    """Make a VAE whose decoder has the outputs that the likelihood takes."""
    wanted, image = make(None, data_shape).output_shape, data_shape
    if len(wanted) == len(image):  # the mixture in colour: numbers a pixel, not a channel
        image = image[1:]
    decoder = pyro_vae.ImageDecoder(latent_dim, image, CHANNELS[::-1], num_outputs=wanted[0])
    encoder = pyro_vae.ImageEncoder(data_shape, (2, latent_dim), CHANNELS)
    return pyro_vae.VAE(prior=pyro_vae.StandardNormal(latent_dim), likelihood=make(decoder, data_shape),
                        posterior=pyro_vae.DiagonalNormal(encoder))  # fmt: skip


def row(name: str, train: Tensor, test: Tensor, args: argparse.Namespace) -> list[str]:
    """Train and score a VAE; return its row of the table."""
    started = time.perf_counter()
    torch.manual_seed(args.seed)
    vae = make_vae(LIKELIHOODS[name], tuple(train.shape[1:]), args.latent_dim)
    noisy = name == "Gaussian"
    data, held_out = (Split(values, levels=255, dequantize=noisy) for values in (train, test[: args.num_test]))
    num_epochs = -(-args.steps * args.batch_size // len(train))
    pyro_vae.fit(vae.model, vae.guide, data, num_epochs=num_epochs, batch_size=args.batch_size, seed=args.seed,
                 lr=lambda done: 2e-3 * 0.5 * (1 + math.cos(math.pi * done)), clip_norm=1000.0,
                 progress=False)  # fmt: skip
    trained = time.perf_counter() - started
    score = pyro_vae.log_likelihood(vae.model, vae.guide, held_out, args.num_particles, chunk_size=10, batch_size=20,
                                    compile=False, seed=args.seed)  # fmt: skip
    bits = score.bits_per_dim(256 if noisy else 1)
    error = score.values.std().item() / len(score.values) ** 0.5 / (score.num_dims * math.log(2))
    if score.mark:
        print(f"{name}: {score.caveat()}", file=sys.stderr)
    return [name, with_error(bits, error, score.mark), f"{score.mean():.1f}", f"{trained:.0f}"]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        sets = {"colour patches": colour()} | ({"Frey faces": frey_faces(args.data_root)} if args.data_root else {})
    except (ValueError, OSError, ImportError) as error:
        print(f"bits_per_dim.py: {error}", file=sys.stderr)
        return 2
    print(machine(torch.device("cpu")))
    for title, (train, test) in sets.items():
        num_test, shape = min(len(test), args.num_test), tuple(train.shape[1:])
        print(f"\n{title} {shape}: {len(train)} to train on, {num_test} to score with K = {args.num_particles}; "
              f"{args.steps} steps of {args.batch_size}\n")  # fmt: skip
        head = ["likelihood", "bits per dimension", "nats per image", "seconds of training"]
        table(head, [row(name, train, test, args) for name in LIKELIHOODS])
    return 0


if __name__ == "__main__":
    sys.exit(main())
