"""One process of a group: runs scenarios one after the other, and writes what they return.

python -m tests.ranks.worker FOLDER SCENARIO[=ARGUMENT] ...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.ranks import agreement, commands, global_latents, resuming, scenarios

_MODULES = (scenarios, agreement, global_latents, commands, resuming)


def main(folder: Path, calls: list[str]) -> None:
    torch.set_num_threads(1)
    for call in calls:
        name, _, argument = call.partition("=")
        scenario = next(getattr(each, name) for each in _MODULES if hasattr(each, name))
        found = scenario(*([argument] if argument else []))
        torch.save(found, folder / f"{name}.{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
