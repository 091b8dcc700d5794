"""Score data by a trained program: log p(x) of each datum with its error."""

from __future__ import annotations

from pathlib import Path

import torch

from pyro_vae.commands.runs import Device, best_device, load_data, load_new
from pyro_vae.commands.settings import read_config
from pyro_vae.commands.tables import pair_of
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.ranks import ranks
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
        new data of the kind that the program was trained on, a folder of pictures or a file; the test data of the run
        unless given
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
    config = read_config(Path(run), "RUN") if data is None or (Path(run) / "config.json").exists() else {}
    x = load_data(config).test if data is None else load_new(config, data, seed)
    model, guide = pair_of(program, config)
    estimates = log_likelihood(model, guide, x, num_particles, seed=seed, progress=True)
    if not ranks().is_first:
        return
    rows = torch.stack(list(estimates), 1).tolist()  # (N, 4)
    lines = ["log_likelihood,std_error,ess,khat", *(",".join(f"{value:.10g}" for value in row) for row in rows)]
    write_text(Path(out), "\n".join(lines) + "\n")
    print("log p(x) =", estimates)
    print(f"the scores of {len(rows)} data are in {out}")
