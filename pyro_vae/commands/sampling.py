"""Draw data from a trained program, as an array or as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyro_vae.commands.runs import Device, best_device
from pyro_vae.runtime.files import replacing
from pyro_vae.runtime.optional import imported, install
from pyro_vae.runtime.state import seeded
from pyro_vae.training.checkpoint import load

__all__ = ["sample"]


def sample(
    run: str,
    num_samples: int = 64,
    out: str = "samples.npy",
    mean: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Draw data from a trained program, into an .npy file or a picture.

    Parameters
    ----------
    run
        folder that training or pyro_vae.save wrote
    num_samples
        number of data
    out
        file for them: an array in a .npy file, or a picture of images in a .png file
    mean
        the mean of p(x|z) for each draw of z, which looks smoother than the data
    seed
        of all that is drawn
    device
        auto takes a GPU where there is one
    """
    path = Path(out)
    if path.suffix not in (".npy", ".png"):
        raise ValueError(f"--out: found {out}, expected a name that ends in .npy or .png")
    if path.suffix == ".png":
        plots = imported("pyro_vae.plots", "matplotlib", "--out", install("report"))
    program = load(run).to(place := best_device(device))
    with seeded(seed, place):
        drawn = program.sample(num_samples, mean=mean).cpu()
    with replacing(path) as temporary:
        if path.suffix == ".png":
            plots.samples(drawn).savefig(temporary, dpi=150, format="png")
        else:
            with temporary.open("wb") as file:
                np.save(file, drawn.numpy(), allow_pickle=False)
    print(f"{num_samples} data {tuple(drawn.shape[1:])} are in {path}")
