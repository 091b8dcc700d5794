"""Every figure: all its words are on the page, and matplotlib's global state is left alone."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vae.plots.bars import kl_per_unit
from pyro_vae.plots.curves import learning_curve
from pyro_vae.plots.distributions import differences, log_likelihoods, scores
from pyro_vae.plots.images import layers, reconstructions, samples
from pyro_vae.plots.intervals import estimates, sandwich
from pyro_vae.plots.latents import latent_grid, latent_space, manifold
from pyro_vae.plots.walks import interpolation, traversal
from tests.support.figures import records, rendered


def every_figure(device: torch.device | None = None) -> dict[str, Figure]:
    x = torch.rand(16, 1, 8, 8, device=device, requires_grad=True)
    return {
        "learning_curve": learning_curve(records([-9.0, -8.0], [-9.0, -8.5]), entropy_floor=4.0),
        "reconstructions": reconstructions(x, x / 2, num_pairs=1),
        "samples": samples(x),
        "layers": layers({f"z{t}": x for t in range(1, 13)}),
        "manifold": manifold(x, latent_grid(4)[1].to(x.device)),
        "latent_space": latent_space(x[:, 0, 0, :2], torch.arange(16, device=device) % 10),
        "kl_per_unit": kl_per_unit({"z2": x[0, 0, 0], "z1": x.flatten()}, {"z1": x.flatten() > 0.1}),
        "kl_per_unit of many": kl_per_unit({f"z{t}": x.flatten()[: 7 * t] for t in range(5, 0, -1)}),
        "latent_space of many": latent_space(x[:, 0, 0], torch.arange(16, device=device) % 10, "pca"),
        "interpolation": interpolation(x.reshape(2, 8, 8, 8)),
        "traversal": traversal(x.reshape(2, 8, 8, 8), [100, 3], torch.arange(-4.0, 4.0, device=device)),
        "log_likelihoods": log_likelihoods(-x.flatten(), 2 * x.flatten()),
        "scores": scores(x.flatten()),
        "differences": differences(x.flatten() - 0.3),
        "estimates": estimates({"a long label of a row": (-90.0, 0.1, 0.5), "log p(x)": (-89.0, 0.01, 0.5)}),
        "sandwich": sandwich(x[0, 0, 0] - 90, x[0, 0, 1] - 89, x[0, 0, 2]),
    }


def test_every_figure_is_saved_with_all_its_words(device, tmp_path):
    for name, figure in every_figure(device).items():
        figure.savefig(tmp_path / f"{name}.png", dpi=150)
        header = (tmp_path / f"{name}.png").read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        np.testing.assert_allclose(struct.unpack(">II", header[16:]), figure.get_size_inches() * 150, atol=1)
        rendered(figure)
        inside, page = figure.get_tightbbox(), figure.get_size_inches()  # of everything drawn, in inches
        assert inside.x0 >= 0 and inside.y0 >= 0 and inside.x1 <= page[0] and inside.y1 <= page[1], name


def test_global_state_of_matplotlib_is_left_alone():
    from matplotlib import pyplot

    figures = pyplot.get_fignums()
    settings = {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}  # chosen when read
    every_figure()
    assert settings == {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}
    assert pyplot.get_fignums() == figures


def test_nothing_of_the_package_nor_pyplot_is_imported_and_no_backend_is_chosen():
    # The folder alone, in a package that is empty: importing the whole would bring in what other modules need.
    from pyro_vae import plots

    program = f"""
import matplotlib, sys, torch, types
backend = dict.get(matplotlib.rcParams, "backend")  # reading it otherwise would choose one
sys.modules["pyro_vae"] = package = types.ModuleType("pyro_vae")
package.__path__ = [{str(Path(plots.__file__).parents[1])!r}]
from pyro_vae import plots
plots.samples(torch.zeros(3, 8, 8)).canvas.draw()
print(dict.get(matplotlib.rcParams, "backend") == backend)
others = [name for name in sys.modules if name.split(".")[0] in ("pyro_vae", "pyro") and ".plots" not in name]
print([name for name in [*others, "matplotlib.pyplot"] if name in sys.modules and name != "pyro_vae"])
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n[]\n"
