"""The console command ``pyro-vae``: each of its commands is a function of this room, and its options are theirs.

The options of ``train`` come from the table in :mod:`pyro_vae.commands.options`, those of the others from the
signatures. ``--config`` reads options by name from YAML or JSON, such as the ``config.json`` of a run; what follows it
on the command line comes before the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import shtab

from pyro_vae.commands.evaluating import evaluate
from pyro_vae.commands.exporting import export
from pyro_vae.commands.failures import exit_status
from pyro_vae.commands.options import add_options, completed
from pyro_vae.commands.reporting import report
from pyro_vae.commands.sampling import sample
from pyro_vae.commands.scoring import score
from pyro_vae.commands.signatures import ConfigFile, Parser, add_parameters
from pyro_vae.commands.training import run
from pyro_vae.runtime.ranks import alone, ranks

__all__ = ["main"]

_COMMANDS: dict[str, Callable[..., None]] = {
    "evaluate": evaluate,
    "report": report,
    "sample": sample,
    "score": score,
    "export": export,
}
_SHARED = ("evaluate", "score")  # among ranks, of which the first one prints and writes
_TRAIN = "Train a variational autoencoder on images, score it, and draw what it learnt, into a new folder under runs/."
_EXAMPLES = {
    "train": """
  pyro-vae train                                        # 8 x 8 digits, nothing to download
  pyro-vae train --data mnist --data-root DATA --latent-dim 50
  pyro-vae train --data my_images.npy --out runs/mine
  pyro-vae train --data photos --size 64                # a folder of pictures
  pyro-vae train --data people.csv --labels region      # a table, with its strings and its holes
  pyro-vae train --objective iwae --num-particles 5 --gradient dreg
  pyro-vae train --program ladder --latent-dims 100 50
  pyro-vae train --config run.yaml --epochs 60          # epochs: 60, whatever run.yaml says
  pyro-vae train --config runs/mine/config.json --seed 1
  pyro-vae train --resume runs/mine                     # go on after Ctrl-C""",
    "evaluate": """
  pyro-vae evaluate runs/mine
  pyro-vae evaluate runs/mine --num-particles 500 --num-data 100   # sooner, with larger errors""",
    "report": """
  pyro-vae report runs/mine                             # report.html, one page for a browser
  pyro-vae report runs/mine --num-data 10000 --embedding map.parquet""",
    "sample": """
  pyro-vae sample runs/mine --num-samples 1000 --out samples.npy
  pyro-vae sample runs/mine --num-samples 100 --mean --out samples.png""",
    "score": """
  pyro-vae score runs/mine                              # its test data
  pyro-vae score runs/mine --data new_images.npy --out scores.csv""",
    "export": """
  pyro-vae export runs/mine                             # encoder.onnx and decoder.onnx beside the weights
  pyro-vae export runs/mine --format torch --out exported""",
}
_OVERVIEW = """Variational autoencoders as Pyro programs, from the command line.

  pyro-vae train --data my_images.npy --out runs/mine
  pyro-vae evaluate runs/mine
  pyro-vae COMMAND --help

To complete commands and options by Tab: eval "$(pyro-vae --print-completion bash)"
"""


class _Completion(argparse.Action):
    """Print the completion script of a shell, and end."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, shell: Any, option: str | None = None) -> None:
        print(shtab.complete(parser, shell))
        parser.exit(0)


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """Make the parser of the command, and return it with those of its commands."""
    parser = Parser(prog="pyro-vae", description=_OVERVIEW)
    parser.add_argument("--version", action="version", version=f"pyro_vae {import_module('pyro_vae').__version__}")
    told = "print the script by which a shell completes"
    parser.add_argument("--print-completion", action=_Completion, choices=shtab.SUPPORTED_SHELLS, help=told)
    places = parser.add_subcommands(required=False, dest="command")
    parsers = {}
    for name, examples in _EXAMPLES.items():
        first_line = _TRAIN if name == "train" else str(_COMMANDS[name].__doc__).partition("\n")[0]
        parsers[name] = part = Parser(description=first_line, epilog=f"examples:{examples}")
        part.add_argument("--config", action=ConfigFile, metavar="FILE", help="options by name, in YAML or JSON")
        if name == "train":
            add_options(part)
        else:
            add_parameters(part, _COMMANDS[name])
        places.add_subcommand(name, part, help=first_line)
    return parser, parsers


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 2 after an error, 130 after Ctrl-C."""
    parser, parsers = make_parser()
    parsed = parser.parse_args(argv)
    name = parsed.command
    if name is None:
        parser.print_help()
        return 0
    given = {key: value for key, value in vars(parsed[name]).items() if key != "config"}
    if name == "train":
        return exit_status("pyro-vae train", run, completed(given, parsers[name]), "pyro-vae train")
    return exit_status(f"pyro-vae {name}", _on_ranks, name, **given)


def _on_ranks(_name: str, **given: Any) -> None:
    """Run a command on this rank; what ranks do not share is done by the first one, alone."""
    if _name in _SHARED:
        _COMMANDS[_name](**given)
    elif ranks().is_first:
        with alone():
            _COMMANDS[_name](**given)
