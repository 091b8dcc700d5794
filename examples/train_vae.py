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
scores, nats per image), checkpoint.safetensors (the best weights), the pictures, and report.html with all of it on one
page. Ctrl-C stops cleanly, and --resume goes on from there. `pyro-vae train` does the same; both are in the package, in
pyro_vae/commands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pyro_vae.commands.failures import exit_status
from pyro_vae.commands.options import parse
from pyro_vae.commands.training import run


def main(argv: Sequence[str] | None = None) -> int:
    return exit_status("train_vae.py", run, parse(argv, __doc__), "python examples/train_vae.py")


if __name__ == "__main__":
    sys.exit(main())
