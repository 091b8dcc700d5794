"""The report of a run, made by its command and at the end of training."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from pyro_vae.commands import console, reporting
from pyro_vae.reporting import assets


@pytest.fixture
def no_assets(tmp_path, monkeypatch):
    """Without ONNX Runtime for browsers, so that no decoder is exported."""
    monkeypatch.setattr(assets, "FOLDER", tmp_path / "none")


@pytest.fixture
def arguments(no_assets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("own<b>.npy", np.random.default_rng(0).random((40, 3, 2)))
    sizes = [
        "--epochs",
        "2",
        "--batch-size",
        "16",
        "--hidden-dims",
        "4",
        "--latent-dim",
        "2",
        "--eval-particles",
        "5",
        "--out",
        "run",
    ]
    return ["train", "--data", "own<b>.npy", *sizes]


def test_training_ends_with_a_report_and_the_command_makes_it_again(arguments, tmp_path, capsys):
    assert console.main(arguments) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    printed = capsys.readouterr()
    assert "the report is in run/report.html (0." in printed.out
    assert "the report has no part 'Explorer': onnxruntime-web@1.22.0" in printed.err
    assert "<span>pyro-vae</span> <span>train</span> <span>&#39;--data=" in page
    assert "own&lt;b&gt;.npy" in page and "own<b>" not in page
    for shown in (
        "Bound by epoch: training from",
        "--latent-dim=2",
        "log p(x), K = 5",
        "seed of the report",
        "4 test data of shape (3, 2)",
    ):
        assert shown in page
    (tmp_path / "run" / "report.html").unlink()
    table = tmp_path / "map.parquet"
    again = ["report", "run", "--num-particles", "7", "--num-data", "3", "--embedding", str(table)]
    assert console.main(again) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["num_particles"] == 5 and metrics["khat_above_0.7"] is None  # of 5 weights it is not known
    assert "log p(x), K = 7" in page and "the first 3 of 4 test data of shape (3, 2)" in page
    assert table.stat().st_size > 0 and f"the map of the latents is in {table}" in capsys.readouterr().out


def test_a_report_that_fails_does_not_lose_the_run(arguments, monkeypatch, tmp_path, capsys):
    def fail(*_, **__):
        raise RuntimeError("the disk\nis full")

    monkeypatch.setattr(reporting, "write", fail)
    assert console.main(arguments) == 0
    assert "no report was made: the disk is full; pyro-vae report run tries again" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["num_particles"] == 5
    assert not (tmp_path / "run" / "report.html").exists()


def test_it_can_be_left_out(arguments, tmp_path):
    assert console.main([*arguments, "--no-report"]) == 0
    assert not (tmp_path / "run" / "report.html").exists()
    assert "no_report" not in json.loads((tmp_path / "run" / "config.json").read_text())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--num-particles", "1"], "--num-particles: found 1, expected 2 or more"),
        (["--num-data", "0"], "--num-data: found 0, expected 2 or more"),
        (["--embedding", "map.csv"], "--embedding: found map.csv, expected a name that ends in .parquet"),
        ([], "RUN: found no config.json in nowhere, expected the folder of a run"),
    ],
)
def test_what_is_refused(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert console.main(["report", "nowhere", *given]) == 2
    assert capsys.readouterr().err == f"pyro-vae report: {message}\n"


def test_the_report_of_a_table_leaves_out_what_is_missing(no_assets, tmp_path, monkeypatch, capsys):
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    frame = pandas.DataFrame({"yes": random.integers(0, 2, 60), "size": random.normal(size=60)})
    frame.loc[::4, "size"] = np.nan
    frame.to_csv("people.csv", index=False)
    sizes = ["--epochs", "1", "--batch-size", "16", "--hidden-dims", "4", "--latent-dim", "2", "--eval-particles", "30"]
    assert console.main(["train", "--data", "people.csv", "--out", "run", *sizes]) == 0
    lacking = re.findall("has no part '(.*?)'", capsys.readouterr().err)
    assert lacking == ["Reconstructions", "Samples", "Explorer"]  # nothing else
    page = (tmp_path / "run" / "report.html").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    figure = metrics["test_log_likelihood"]
    assert metrics["khat_above_0.7"] is not None
    assert f"<dd>{figure:.2f}" in page  # the score of the same rows, by the same draws
    assert "on people.csv" in page and "6 test data of shape (2,)" in page
    assert "yes: binary" in page and "categories&#39;" not in page
    assert console.main(["report", "run", "--num-particles", "30"]) == 0
    assert f"<dd>{figure:.2f}" in (tmp_path / "run" / "report.html").read_text()
