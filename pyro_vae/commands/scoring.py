"""Score data by a trained program: log p(x) of each datum with its error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pyro_vae.commands.runs import Device, best_device, load_data
from pyro_vae.commands.settings import read_config
from pyro_vae.data.split import Split
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.runtime.files import write_text
from pyro_vae.training.checkpoint import load

__all__ = ["score"]


def score(
    run: str,
    data: str | None = None,
    num_particles: int = 1000,
    out: str = "scores.csv",
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Estimate log p(x) of each datum with its error, into a .csv file.

    Parameters
    ----------
    run
        folder that training wrote; of pyro_vae.save with --data
    data
        a .npy file, one datum a row, as the program was trained on; the test data of the run unless given
    num_particles
        importance samples per datum
    out
        file for the scores, a datum a line: log_likelihood, std_error (both in nats), ess, khat
    seed
        of all that is drawn
    device
        auto takes a GPU where there is one
    """
    program = load(run).to(best_device(device))
    x = load_data(read_config(Path(run), "RUN")).test if data is None else _read(data)
    estimates = log_likelihood(program.model, program.guide, x, num_particles, seed=seed, progress=True)
    rows = torch.stack(list(estimates), 1).tolist()  # (N, 4)
    lines = ["log_likelihood,std_error,ess,khat", *(",".join(f"{value:.6f}" for value in row) for row in rows)]
    write_text(Path(out), "\n".join(lines) + "\n")
    print("log p(x) =", estimates)
    print(f"the scores of {len(rows)} data are in {out}")


def _read(path: str) -> Split:
    """Read an array; bytes above 1 are grey levels, as in ``data.load``."""
    values = torch.from_numpy(np.load(path, allow_pickle=False))
    is_grey = values.dtype == torch.uint8 and bool((values > 1).any())
    return Split(values, levels=255 if is_grey else 1)
