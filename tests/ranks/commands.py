"""The console command on each rank: what it prints, and which files there are after it."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from pathlib import Path

from pyro_vae.commands import console
from pyro_vae.runtime.ranks import ranks
from tests.ranks.given_noise import data


def commands(folder):
    """Train on a file, then run each command that needs nothing else; return the status and the output of each."""
    folder = Path(folder)
    own, run = folder / "own.csv", folder / "run"
    ranks().first(lambda: own.write_text("a,b,c\n" + "\n".join(",".join(map(str, row.tolist())) for row in data()[0])))
    train = [
        "train",
        "--data",
        own,
        "--out",
        run,
        "--epochs",
        1,
        "--eval-particles",
        5,
        "--latent-dim",
        2,
        "--no-report",
    ]
    calls = {
        "train": [*train, "--latent-dim", 2, "--hidden-dims", 4, "--batch-size", 10],
        "evaluate": ["evaluate", run, "--num-particles", 20],
        "score": ["score", run, "--num-particles", 5, "--out", folder / "scores.csv"],
        "sample": ["sample", run, "--num-samples", 3, "--out", folder / "samples.csv"],
        "refused": ["sample", run, "--out", folder / "samples.txt"],
    }
    found = {}
    for name, call in calls.items():
        with redirect_stdout(io.StringIO()) as out:
            status = console.main(list(map(str, call)))
        found[name] = status, out.getvalue()
    ranks().gather(None)  # the first one has written all
    return found, sorted(os.listdir(folder) + os.listdir(run))
