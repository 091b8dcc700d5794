"""Draw data from a trained program, as an array or as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyro_vae.commands.runs import Device, best_device
from pyro_vae.commands.settings import read_config
from pyro_vae.commands.tables import table_of
from pyro_vae.runtime.files import replacing, write_text
from pyro_vae.runtime.optional import imported, install
from pyro_vae.runtime.state import seeded
from pyro_vae.training.checkpoint import load

__all__ = ["sample"]


def sample(
    run: str,
    num_samples: int = 64,
    out: str | None = None,
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
        file for them: an array in a .npy file, or a picture of images in a .png file; rows of a table in a .csv file;
        samples.npy or samples.csv unless given
    mean
        the mean of p(x|z) for each draw of z, which looks smoother than the data
    seed
        of all that is drawn
    device
        auto takes a GPU where there is one
    """
    config = read_config(Path(run), "RUN") if (Path(run) / "config.json").exists() else {}
    table, path = table_of(config), Path(out or ("samples.csv" if "table" in config else "samples.npy"))
    suffixes = (".npy", ".png") if table is None else (".csv",)
    if path.suffix not in suffixes:
        raise ValueError(f"--out: found {out}, expected a name that ends in {' or '.join(suffixes)}")
    if path.suffix == ".png":
        plots = imported("pyro_vae.plots", "matplotlib", "--out", install("report"))
    program = load(run).to(place := best_device(device))
    if table is not None:
        if mean:
            raise ValueError("--mean: found it for a table, expected none, since its entries are drawn")
        write_text(path, table.sample(program, num_samples, seed=seed).to_csv(index=False))
        print(f"{num_samples} rows of {len(table.columns)} columns are in {path}")
        return
    with seeded(seed, place):
        drawn = program.sample(num_samples, mean=mean).cpu()
    with replacing(path) as temporary:
        if path.suffix == ".png":
            plots.samples(drawn).savefig(temporary, dpi=150, format="png")
        else:
            with temporary.open("wb") as file:
                np.save(file, drawn.numpy(), allow_pickle=False)
    print(f"{num_samples} data {tuple(drawn.shape[1:])} are in {path}")
