"""Score a trained run: the importance-sampled log-likelihood of its test set, with its error, and what its latents do.

    python examples/evaluate.py runs/digits-20260101-120000 --num-particles 5000

Prints a summary and writes it to evaluation.json in the run's folder, next to kl_per_unit.png. `pyro-vae evaluate` does
the same; both are in the package, in pyro_vae/commands/evaluating.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pyro_vae.commands.evaluating import evaluate
from pyro_vae.commands.failures import exit_status
from pyro_vae.commands.signatures import Parser, add_parameters


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    add_parameters(parser, evaluate)
    return exit_status("evaluate.py", evaluate, **vars(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
