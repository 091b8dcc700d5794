"""Turn a variational autoencoder into a much richer one by changing two lines: the parts and the bound.

    python examples/two_lines.py
    python examples/two_lines.py --data mnist --data-root DATA --epochs 40

The richer one has a VampPrior (Tomczak and Welling, 2018), an inverse autoregressive posterior (Kingma et al., 2016)
and the importance-weighted bound (Burda et al., 2015). Everything else is the same for both: data, training, scoring.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from pyro_vae import ELBO, IWAE, MLP, VAE, Flow, FlowPosterior, VampPrior, data, fit, log_likelihood


def plain(shape: tuple[int, ...], latent_dim: int) -> tuple[VAE, Any]:
    """Make the VAE and the bound of the AEVB paper."""
    vae = VAE(shape, latent_dim)
    objective = ELBO()
    return vae, objective


def rich(shape: tuple[int, ...], latent_dim: int) -> tuple[VAE, Any]:
    """Make the same with two lines changed; the VampPrior contains the posterior, which the VAE takes from it."""
    posterior = FlowPosterior(Flow("autoregressive", latent_dim, context_dim=200), MLP(shape, None, (200, 200)))
    vae = VAE(shape, latent_dim, prior=VampPrior(100, posterior, shape, components="start"))
    objective = IWAE(num_particles=5)
    return vae, objective


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=("digits", "mnist", "fashion_mnist"),
                        help="black and white images (default: digits)")  # fmt: skip
    parser.add_argument("--data-root", metavar="DIR", help="folder with the data files, or where to download them to")
    parser.add_argument("--latent-dim", type=int, default=10, help="length of the latent z (default: 10)")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the training data (default: 100)")
    parser.add_argument("--eval-particles", type=int, default=1000, help="K of log p(x) (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, draws and order (default: 0)")
    args = parser.parse_args(argv)
    try:
        splits = data.load(args.data, root=args.data_root)
        for make in (plain, rich):
            torch.manual_seed(args.seed)
            vae, objective = make(splits.data_shape, args.latent_dim)
            history = fit(vae.model, vae.guide, splits, objective=objective, num_epochs=args.epochs, seed=args.seed)
            if history.interrupted:
                print("interrupted", file=sys.stderr)
                return 130
            score = log_likelihood(vae.model, vae.guide, splits.test, args.eval_particles, seed=args.seed)
            print(f"{make.__name__:6} log p(x) {score}")
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
