"""Figures and results show themselves in a notebook that says nothing of matplotlib."""

from __future__ import annotations

import base64
import gc
import struct
import weakref
from pathlib import Path

import pytest
import torch

from pyro_vae import plots

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
CELLS = [
    "import torch\nfrom pyro_vae import History, LogLikelihood, plots",
    "plots.samples(torch.rand(4, 8, 8))",
    "values = torch.randn(50, dtype=torch.float64)\n"
    "score = LogLikelihood(values, values.abs() / 100, values.abs(), values.abs() / 10)\nscore",
    "score.plot()",
    "History([{'epoch': 1, 'step': 5, 'train_bound': -2.0, 'valid_bound': -3.0, 'valid_loss': 3.0}])",
    "import sys\nprint('matplotlib.pyplot' in sys.modules)",
]


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return struct.unpack(">II", png[16:24])


def test_a_figure_is_shown_at_its_size_in_fine_pixels():
    figure = plots.samples(torch.rand(4, 8, 8))
    png, shown = figure._repr_png_()
    width, height = size_of(png)
    assert abs(width - 2 * shown["width"]) <= 2 and abs(height - 2 * shown["height"]) <= 2
    assert figure.dpi == plots.samples(torch.rand(4, 8, 8)).dpi  # drawing leaves it as it was


def test_a_figure_is_freed_with_the_last_reference():
    figure = plots.samples(torch.rand(4, 8, 8))
    figure._repr_png_()
    seen = weakref.ref(figure)
    del figure
    gc.collect()
    assert seen() is None


def executed(notebook):
    """Run a notebook in a kernel of its own, and return the outputs of each of its code cells."""
    nbclient = pytest.importorskip("nbclient", reason="runs where the extra of the tests is installed, as in CI")
    pytest.importorskip("ipykernel", reason="runs where the extra of the tests is installed, as in CI")
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return [list(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.filterwarnings("default")  # of Jupyter's own libraries
def test_an_executed_notebook_has_images_and_tables():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    _, figure, score, plot, history, pyplot = executed(notebook)
    for (shown,) in (figure, plot):
        width, _ = size_of(base64.b64decode(shown.data["image/png"]))
        assert abs(width - 2 * shown.metadata["image/png"]["width"]) <= 2
    for (shown,) in (score, history):
        assert shown.data["text/html"].startswith("<table") and "tensor(" not in shown.data["text/plain"]
    assert pyplot[0].text == "False\n"


@pytest.mark.cross
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_the_notebooks_of_the_docs_run_and_show_their_figures(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.get("outputs") for cell in notebook.cells), "committed with outputs, expected none"
    for source, outputs in zip(code, executed(notebook), strict=True):
        kinds = {kind for output in outputs for kind in output.get("data", {})}
        last = source.splitlines()[-1]
        if "plot" in last and "import" not in last:
            assert "image/png" in kinds, source
        elif not any(sign in last for sign in "=("):
            assert "text/html" in kinds, source
