"""Train in two threads at once, and say what became of each.

    python -m tests.endurance.threads --rounds 3

Pyro's handlers and its parameter store belong to the process, and so do torch's generators. Both runs must end with the
weights, bit by bit, that they have when they run alone, or one must be refused by an error that says so.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter

import torch

import pyro_vae
from tests.support.programs import same, weights


def train(seed: int) -> dict[str, torch.Tensor]:
    """Train a VAE made from ``seed`` and return its weights."""
    vae = VAES.pop(seed)
    data = pyro_vae.data.load("digits")
    pyro_vae.fit(vae.model, vae.guide, data, num_epochs=3, seed=seed, compile=False, progress=False)
    return weights(vae)


VAES: dict[int, pyro_vae.VAE] = {}


def make(seed: int) -> None:
    """Make a VAE in the main thread, since initial weights come from the one generator of the process."""
    torch.manual_seed(seed)
    VAES[seed] = pyro_vae.VAE((8, 8), 5, (32,))


def together(seeds: list[int], alone: dict[int, dict[str, torch.Tensor]]) -> list[str]:
    """Train all at once, each in a thread, and return what became of them."""
    barrier, outcomes = threading.Barrier(len(seeds)), {}

    def run(seed: int) -> None:
        barrier.wait()
        try:
            equal = same(train(seed), alone[seed])
            outcomes[seed] = "trained, bit-equal to the run alone" if equal else "trained to OTHER WEIGHTS than alone"
        except Exception as error:  # what a user would meet
            outcomes[seed] = f"{type(error).__name__}: {str(error).splitlines()[0]}"

    threads = [threading.Thread(target=run, args=(seed,)) for seed in seeds]
    for seed in seeds:
        make(seed)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[seed] for seed in seeds]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default: 5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds, alone = [1, 2], {}
    for seed in seeds:
        make(seed)
        alone[seed] = train(seed)
    outcomes = Counter(outcome for _ in range(args.rounds) for outcome in together(seeds, alone))
    for outcome, count in outcomes.most_common():
        print(f"{count:3d} of {2 * args.rounds}  {outcome}")
    return 0 if all("bit-equal" in outcome or "thread" in outcome for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
