"""Data of each kind that data.load reads are trained on, evaluated and scored from the command line."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import pyro_vae
from pyro_vae.commands import training

pandas = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
SMALL = ["--epochs", 1, "--batch-size", 16, "--hidden-dims", 4, "--latent-dim", 2, "--eval-particles", 5]


def people(num_rows=60):
    rng = np.random.default_rng(0)  # so that the rows of each call have the same categories
    wealth = rng.normal(size=num_rows)
    frame = pandas.DataFrame(
        {
            "income": 50_000 + 20_000 * wealth,
            "city": np.where(wealth > 0, "Oslo", "Rome"),
            "flights": rng.poisson(np.exp(0.5 + 0.8 * wealth)).astype(float),
            "kind": ["a", "b"] * (num_rows // 2),
        }
    )
    holes = rng.random(frame.shape) < 0.2
    holes[:, 3] = False
    return frame.mask(holes)


def write_pictures(folder, num=40):
    for index in range(num):
        path = Path(folder, "ab"[index % 2])
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (6, 6), dtype=np.uint8)).save(path / f"{index}.png")


def scores():
    return np.genfromtxt("scores.csv", delimiter=",", names=True)["log_likelihood"]


def config(folder="run"):
    return json.loads(Path(folder, "config.json").read_text())


def test_a_folder_of_pictures(call):
    write_pictures("pictures")
    assert call("train", "--data", "pictures", "--size", 4, "--out", "run", *SMALL)[0] == 0
    assert (config()["size"], config()["likelihood"]) == ([4], "gaussian")
    assert Path(config()["data"]) == Path("pictures").resolve()
    assert call("evaluate", "run", "--num-particles", 5, "--num-data-mi", 2)[0] == 0
    write_pictures("new", 6)
    assert call("score", "run", "--data", "new", "--num-particles", 5, "--seed", 1)[0] == 0
    vae, data = pyro_vae.load("run"), pyro_vae.data.loading.load_whole("new", size=4)
    expected = pyro_vae.log_likelihood(vae.model, vae.guide, data, 5, seed=1)
    np.testing.assert_allclose(scores(), expected.values.numpy(), atol=1e-5)


def test_grey_pictures_become_black_and_white_when_they_are_scored_too(call):
    write_pictures("pictures")
    arguments = ["--data", "pictures", "--binarize", "dynamic", "--out", "run"]
    assert call("train", *arguments, *SMALL)[0] == 0 and config()["likelihood"] == "bernoulli"
    assert call("score", "run", "--data", "pictures", "--num-particles", 5)[0] == 0
    assert len(scores()) == 40


def test_a_table_with_holes_and_strings(call, monkeypatch):
    monkeypatch.setattr(training, "find_spec", find_spec)
    frame = people()
    frame.to_csv("people.csv", index=False)
    status, out, _ = call("train", "--data", "people.csv", "--labels", "kind", "--out", "run", *SMALL)
    assert status == 0 and "city: nominal, 2 categories" in out and "48 training data of 3 columns" in out
    table = pyro_vae.Table.from_dict(config()["table"])
    assert table.names == ["income", "city", "flights"] and config()["likelihood"] == "columns"
    assert {path.name for path in Path("run").glob("*.png")} == {"learning_curve.png", "latent_space.png"}
    assert call("evaluate", "run", "--num-particles", 5, "--num-data-mi", 2)[0] == 0
    rows = frame.drop(columns="kind").head(7)
    rows.to_csv("new.csv", index=False)
    assert call("score", "run", "--data", "new.csv", "--num-particles", 5, "--seed", 1)[0] == 0
    vae = pyro_vae.load("run")
    pair = pyro_vae.observed_only(vae.model, vae.guide)
    expected = pyro_vae.log_likelihood(*pair, table.pack(rows), 5, seed=1).values
    np.testing.assert_allclose(scores(), expected.numpy(), atol=1e-5)
    assert call("sample", "run", "--num-samples", 5)[0] == 0
    drawn = pandas.read_csv("samples.csv")
    assert list(drawn.columns) == table.names and set(drawn["city"]) <= {"Oslo", "Rome"} and len(drawn) == 5


def test_a_table_stays_the_one_of_the_run_when_its_file_changes(call):
    people().to_csv("people.csv", index=False)
    arguments = ["--data", "people.csv", "--labels", "kind"]
    assert call("train", *arguments, "--out", "run", *SMALL)[0] == 0
    before = config()
    people().assign(city="Oslo").to_csv("people.csv", index=False)
    other = "found other rows than those of the run in run"
    with pytest.warns(UserWarning, match=f"^data: {other}"), pytest.warns(UserWarning, match=f"^valid: {other}"):
        assert call("train", "--resume", "run")[0] == 0
    assert config() == before
    assert call("score", "run", "--data", "people.csv", "--num-particles", 5)[0] == 0
    status, _, errors = call("train", "--config", "run/config.json", "--out", "again", "--epochs", 1)
    assert status == 2 and "column 'city'" in errors  # another run has a table of its own
    people().assign(city="Bern").to_csv("people.csv", index=False)
    status, _, errors = call("score", "run", "--data", "people.csv")
    assert status == 2 and "column 'city': found 'Bern', which is none of its 2 categories" in errors


def test_namibia_is_a_country(call):
    countries = np.where(np.arange(60) % 3 == 0, "NA", "DE")
    pandas.DataFrame({"v": np.linspace(-1.0, 1.0, 60), "country": countries}).to_csv("t.csv", index=False)
    assert call("train", "--data", "t.csv", "--out", "run", *SMALL)[0] == 0
    assert config()["table"]["columns"][1]["categories"] == ["DE", "NA"]
    pandas.DataFrame({"v": [1.0, 2.0], "country": "NA"}).to_csv("new.csv", index=False)  # no other string in it
    assert call("score", "run", "--data", "new.csv", "--num-particles", 5, "--seed", 1)[0] == 0
    vae, table = pyro_vae.load("run"), pyro_vae.Table.from_dict(config()["table"])
    packed = table.pack(pandas.DataFrame({"v": [1.0, 2.0], "country": ["NA", "NA"]}))
    expected = pyro_vae.log_likelihood(*pyro_vae.observed_only(vae.model, vae.guide), packed, 5, seed=1).values
    np.testing.assert_allclose(scores(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
def test_other_files_of_tables(call, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        people().to_parquet("people.parquet")
    else:
        people().to_csv("people.tsv", sep="\t", index=False)
    assert call("train", "--data", f"people{suffix}", "--out", "run", *SMALL)[0] == 0
    assert len(config()["table"]["columns"]) == 4


def test_cells_are_counts_and_stay_sparse(call):
    anndata, sparse = pytest.importorskip("anndata"), pytest.importorskip("scipy.sparse")
    counts = RNG.poisson(0.5, size=(60, 8)).astype("float32")
    obs = pandas.DataFrame({"kind": ["a", "b"] * 30}, index=[str(index) for index in range(60)])
    anndata.AnnData(sparse.csr_matrix(counts), obs=obs).write_h5ad("cells.h5ad")
    assert call("train", "--data", "cells.h5ad", "--labels", "kind", "--out", "run", *SMALL)[0] == 0
    assert config()["likelihood"] == "counts" and pyro_vae.load("run").likelihood.data_shape == (8,)
    assert call("score", "run", "--data", "cells.h5ad", "--num-particles", 5)[0] == 0
    assert len(scores()) == 60


def test_an_archive_with_labels(call):
    x = RNG.normal(size=(40, 3))
    np.savez("both.npz", x=x, y=np.arange(40) % 2)
    assert call("train", "--data", "both.npz", "--labels", "y", "--out", "run", *SMALL)[0] == 0
    assert config()["likelihood"] == "real"
    np.savez("new.npz", x=x[:4])  # without labels
    for name, number in (("both.npz", 40), ("new.npz", 4)):
        assert call("score", "run", "--data", name, "--num-particles", 5)[0] == 0
        assert len(scores()) == number


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "income.npy"], "--likelihood: found real for numbers of mean "),
        (
            ["--data", "income.npy", "--program", "hvae", "--likelihood", "real"],
            "found real for hvae, expected bernoulli",
        ),
        (["--data", "counts.npy", "--likelihood", "counts"], "found counts for data of shape (3, 2), expected rows"),
        (
            ["--data", "standard.npy", "--program", "hvae"],
            "--likelihood: found none for hvae and numbers from -2 to 3, expected numbers in [0, 1], or --program vae",
        ),
        (["--data", "counts.npy", "--program", "ladder"], "--likelihood: found none for ladder and numbers from 0 to "),
        (["--data", "counts.npy", "--program", "conv-ladder"], "--likelihood: found none for conv-ladder and numbers"),
        (
            ["--data", "standard.npy", "--likelihood", "gaussian"],
            "--likelihood: found gaussian for vae and numbers from -2 to 3, expected numbers in [0, 1], or real",
        ),
        (["--data", "bits.npy", "--likelihood", "gaussian"], "--likelihood: found gaussian for zeros and ones alone"),
        (["--data", "bits.npy", "--likelihood", "real"], "--likelihood: found real for zeros and ones alone"),
        (
            ["--data", "digits", "--likelihood", "gaussian", "--binarize", "dynamic"],
            "--likelihood: found gaussian for zeros and ones alone, of which a density has no upper limit",
        ),
        (["--data", "people.csv", "--program", "ladder"], "--program: found ladder for a table, expected vae"),
        (["--data", "people.csv", "--likelihood", "gaussian"], "--likelihood: found gaussian for a table, expected"),
        (["--data", "people.csv", "--binarize", "static"], "--binarize: found static for a table, expected none"),
        (["--data", "people.csv", "--size", 4], "--size: found [4] for a table, expected none"),
        (
            ["--data", "digits", "--likelihood", "columns"],
            "--likelihood: found columns for digits, expected bernoulli,",
        ),
        (
            ["--data", "people.csv", "--labels", "sort"],
            "labels: found 'sort', expected one of the columns 'income', 'city'",
        ),
        (["--data", "colours.npy"], "which looks like pictures (N, H, W, C) with their channels last"),
        (["--data", "bits.npy", "--data-root", "x"], "--data-root: found x for bits.npy, expected none, since it is"),
        (["--data", "nowhere"], "name: found 'nowhere', expected one of"),
        (["--data", "nowhere/"], "found no file or folder"),
        (["--data", "nowhere.csv"], "nowhere.csv', expected a table"),
    ],
)
def test_what_does_not_go_together_is_one_line(call, arguments, message, monkeypatch):
    monkeypatch.setattr(training, "find_spec", find_spec)  # whose absence is a line, too
    np.save("income.npy", 50_000 + 20_000 * RNG.normal(size=(40, 3)))
    np.save("counts.npy", RNG.poisson(3.0, (40, 3, 2)))
    np.save("colours.npy", RNG.random((40, 8, 8, 3)))
    np.save("standard.npy", np.linspace(-2.0, 3.0, 120).reshape(40, 3))
    np.save("bits.npy", RNG.integers(0, 2, (40, 3)).astype(float))
    people().to_csv("people.csv", index=False)
    status, _, errors = call("train", "--epochs", 1, *arguments)
    assert status == 2 and message in errors and errors.count("\n") == 1
    assert not Path("runs").exists()


def test_a_table_has_rows_and_no_means_of_pictures(call):
    people().to_csv("people.csv", index=False)
    assert call("train", "--data", "people.csv", "--out", "run", *SMALL)[0] == 0
    assert "expected a name that ends in .csv" in call("sample", "run", "--out", "x.npy")[2]
    assert "--mean: found it for a table" in call("sample", "run", "--mean")[2]
    write_pictures("pictures", 2)
    status, _, errors = call("score", "run", "--data", "pictures")
    assert status == 2 and "--data: found pictures for the run of a table, expected a file .csv, .tsv" in errors
