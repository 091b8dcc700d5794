"""A training script for a launcher: rank 1 of the first start is killed, and the second start goes on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from tests.ranks.given_noise import GivenNoise, fit
from tests.ranks.scenarios import stop


def main(folder: Path) -> None:
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    torch.set_num_threads(1)
    pair = GivenNoise()
    if restarts == 0:
        pair.at_step = {10: lambda: stop(1, signal.SIGKILL)}
    fit(pair, checkpoint=folder, resume=(folder / "last.safetensors").exists())
    if os.environ["RANK"] == "0":
        torch.save({"restarts": restarts, "weights": pair.state_dict()}, folder.with_suffix(".pt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
