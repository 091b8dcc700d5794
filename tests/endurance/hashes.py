"""Count the compilations of a run under different seeds of Python's hashes, one process a seed.

    python -m tests.endurance.hashes
    python -m tests.endurance.hashes --seeds 18 28 --inductor

The order in which Python goes through a set of strings depends on ``PYTHONHASHSEED``, which is random unless it is set.
The run is 12 epochs of the digits with validation, ``compile=True``. It takes one compilation of the training step and
one of validation, whatever the seed; kernels are the traced graphs themselves, unless Inductor is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from typing import Any

SEEDS = [18, 28, 35, 75, 77, 79, 81, *range(13)]
EXPECTED = {"training step": 1, "validation": 1}


def measure(inductor: bool) -> dict[str, Any]:
    """Train in this process and return the number of compilations by function, and the warnings."""
    import torch

    import pyro_vae
    from pyro_vae.compilation import compiled as compilation
    from pyro_vae.training import step as steps

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made: list[compilation.Compiled] = []

    class Counted(compilation.Compiled):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    steps.Compiled = Counted  # type: ignore[misc]
    if not inductor:
        compilation.inductor = lambda graph, inputs: graph  # type: ignore[assignment]
    vae = pyro_vae.VAE((8, 8), 10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pyro_vae.fit(
            vae.model, vae.guide, pyro_vae.data.load("digits"), num_epochs=12, seed=0, compile=True, progress=False
        )
    said = [str(warning.message) for warning in caught if "not compiled" in str(warning.message)]
    return {"compilations": {each.name: each.num_traces for each in made}, "warnings": said}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="values of PYTHONHASHSEED (default: 20)")
    parser.add_argument("--inductor", action="store_true", help="compile by Inductor, instead of tracing alone")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # what each process is asked for
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.inductor)))
        return 0
    began, good = time.monotonic(), 0
    print(f"{'PYTHONHASHSEED':>14}{'training step':>15}{'validation':>12}  warnings")
    for seed in args.seeds:
        command = [sys.executable, "-m", "tests.endurance.hashes", "--here", *["--inductor"] * args.inductor]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        counts, said = found["compilations"], found["warnings"]
        good += counts == EXPECTED and not said
        numbers = f"{counts['training step']:15d}{counts['validation']:12d}"
        print(f"{seed:14d}{numbers}  {'; '.join(said) or '-'}", flush=True)
    print(f"{good} of {len(args.seeds)} seeds took one compilation of each; {time.monotonic() - began:.0f} s")
    return 0 if good == len(args.seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
