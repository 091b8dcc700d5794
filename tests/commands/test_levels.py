"""Numbers and grey levels from the command line: the likelihood suits them, and new data are read on their scale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae

RNG = np.random.default_rng(0)
SMALL = ["--epochs", 1, "--batch-size", 16, "--hidden-dims", 4, "--latent-dim", 2, "--eval-particles", 5]


def config(folder="run"):
    return json.loads(Path(folder, "config.json").read_text())


def scores():
    return np.genfromtxt("scores.csv", delimiter=",", names=True)["log_likelihood"]


def write_scales():
    """Write arrays of bytes, of nearly black ones, of fractions, of levels 0 and 1, of counts and standardised."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (40, 3), dtype=np.uint8)
    levels[0] = [0, 255, 7]
    arrays = {
        "bytes": levels,
        "dark": rng.integers(0, 2, (40, 3), dtype=np.uint8),
        "unit": rng.random((40, 3)),
        "levels": rng.integers(0, 2, (40, 3), dtype=np.uint8),
        "counts": rng.poisson(5.0, (40, 3)),
        "standard": np.linspace(-2.0, 3.0, 120).reshape(40, 3),
    }
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)


def test_zeros_and_ones_are_bernoulli_and_new_grey_pictures_become_so(call):
    bits = np.random.default_rng(0).integers(0, 2, (40, 8, 8)).astype(np.float32)
    np.save("bits.npy", bits)
    assert call("train", "--data", "bits.npy", "--out", "run", *SMALL)[0] == 0 and config()["likelihood"] == "bernoulli"
    assert call("train", "--data", "digits", "--out", "digits", *SMALL)[0] == 0
    np.save("grey.npy", 0.999 * bits[:5] + 0.0005)  # as good as the bits
    assert call("score", "digits", "--data", "grey.npy", "--num-particles", 5, "--seed", 1)[0] == 0
    vae = pyro_vae.load("digits")
    expected = pyro_vae.log_likelihood(vae.model, vae.guide, bits[:5], 5, seed=1)
    np.testing.assert_allclose(scores(), expected.values.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("data", "new", "scale"),
    [
        ("bytes", "dark", 255),
        ("bytes", "bytes", 255),
        ("bytes", "unit", 1),
        ("unit", "bytes", 255),
        ("unit", "dark", 1),
        ("levels", "dark", 1),
        ("counts", "bytes", 1),
    ],
)
def test_new_data_are_read_on_the_scale_of_the_run(call, data, new, scale):
    write_scales()
    assert call("train", "--data", f"{data}.npy", "--out", "run", *SMALL)[0] == 0
    assert call("score", "run", "--data", f"{new}.npy", "--num-particles", 5, "--seed", 1)[0] == 0
    vae, values = pyro_vae.load("run"), np.load(f"{new}.npy") / np.float32(scale)
    expected = pyro_vae.log_likelihood(vae.model, vae.guide, values, 5, seed=1).values
    np.testing.assert_allclose(scores(), expected.numpy(), rtol=1e-5)
    settings = config()
    assert settings["levels"] == (255 if data == "bytes" else 1)
    del settings["levels"]  # as in a run of an older version
    Path("run/config.json").write_text(json.dumps(settings))
    assert call("score", "run", "--data", "dark.npy", "--num-particles", 5)[0] == 0


@pytest.mark.parametrize(
    ("data", "new", "message"),
    [
        ("bytes", "standard", "float64 from -2 to 3 in standard.npy, expected bytes, 0..255, as the run has them"),
        ("bytes", "counts", "int64 from "),
        ("standard", "bytes", "uint8 from 0 to 255 in bytes.npy, expected numbers as the run has them"),
    ],
)
def test_new_data_of_another_scale_are_one_line(call, data, new, message):
    write_scales()
    assert call("train", "--data", f"{data}.npy", "--out", "run", *SMALL)[0] == 0
    status, _, errors = call("score", "run", "--data", f"{new}.npy", "--num-particles", 5)
    assert status == 2 and f"--data: found numbers of type {message}" in errors and errors.count("\n") == 1
    Path("run/config.json").write_text(json.dumps(config() | {"levels": 0}))
    status, _, errors = call("score", "run", "--data", f"{data}.npy")
    assert status == 2 and "levels: found 0 in the settings of the run, expected a positive integer" in errors


def test_a_gaussian_is_of_the_grey_levels_of_black_and_white_sets(call):
    assert call("train", "--data", "digits", "--likelihood", "gaussian", "--out", "run", *SMALL)[0] == 0
    assert config()["binarize"] == "none"
    assert call("score", "run", "--num-particles", 5, "--seed", 1)[0] == 0
    vae, grey = pyro_vae.load("run"), pyro_vae.data.load("digits", binarize=None).test
    expected = pyro_vae.log_likelihood(vae.model, vae.guide, grey, 5, seed=1).values
    np.testing.assert_allclose(scores(), expected.numpy(), atol=1e-5)
    assert call("train", "--config", "run/config.json", "--out", "again")[0] == 0
    assert config("again") == config()


@pytest.mark.parametrize(
    ("values", "likelihood"),
    [
        (RNG.random((40, 3)), "gaussian"),
        (RNG.integers(0, 256, (40, 3), dtype=np.uint8), "gaussian"),
        (255 * RNG.integers(0, 2, (40, 3), dtype=np.uint8), "bernoulli"),
        (RNG.poisson(3.0, (40, 3)), "counts"),
        (RNG.poisson(3.0, (40, 3, 2)), "real"),
        (RNG.normal(size=(40, 3)), "real"),
        (-RNG.poisson(3.0, (40, 3)), "real"),
    ],
)
def test_the_likelihood_suits_the_numbers(call, values, likelihood):
    np.save("own.npy", values)
    assert call("train", "--data", "own.npy", "--out", "run", *SMALL)[0] == 0
    assert config()["likelihood"] == likelihood
    vae = pyro_vae.load("run")
    if likelihood == "counts":
        assert bool((vae.reconstruct(torch.from_numpy(values)) > 0).all())
