"""The example that sets two layers beside one: linear ones agree exactly, those of networks are compared fairly."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import pyro_vae

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBER = r"([+-]?\d[\d.,]*(?:e[+-]\d+)?)"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("deeper_gaussian_layers")


def test_linear_layers_agree_and_networks_are_compared(example, capsys):
    assert example.main(["--epochs", "1", "--num-particles", "20"]) == 0
    text = capsys.readouterr().out

    def numbers(pattern):
        match = re.search(pattern.replace("#", NUMBER), text)
        assert match, text
        return [float(number.replace(",", "")) for number in match.groups()]

    two, one = numbers("two layers #, one layer #")
    assert two == pytest.approx(one, abs=2e-10) and -1000 < two < -64  # 64 pixels of variance 0.5 or more
    (difference,) = numbers("largest difference of an image #")
    assert 0 <= difference < 1e-10
    _, flat_size, flat, flat_error = numbers(r"one layer +# +# +# ± #")
    _, _, deep_size, deep, deep_error = numbers(r"two layers +# \+ # +# +# ± #")
    assert flat_size == pytest.approx(deep_size, rel=0.01)
    assert -45 < flat < -20 and -45 < deep < -20  # 64 pixels, whose rates alone explain them at -30 or so
    assert 0 < flat_error < 0.5 and 0 < deep_error < 0.5
    gain, monte_carlo, over_images = numbers(r"two layers - one: # ± # .*, ± # ")
    assert gain == pytest.approx(deep - flat, abs=2e-3)  # printed to three digits
    assert monte_carlo == pytest.approx((flat_error**2 + deep_error**2) ** 0.5, abs=2e-3) and over_images > 0


@pytest.mark.parametrize(
    "shape, latent_dims, hidden_dims, latent_dim",
    [((8, 8), (20, 10), ((50, 50), (25, 25)), 10), ((28, 28), (100, 50), ((200, 200), (100, 100)), 50)],
)
def test_both_have_as_many_parameters(example, shape, latent_dims, hidden_dims, latent_dim):
    deep = pyro_vae.HVAE(shape, latent_dims, hidden_dims)
    assert (latent_dims, hidden_dims, latent_dim) in example.SIZES.values()
    width = example.width_for(example.count(deep), shape[0] * shape[1], latent_dim)
    flat = {
        each: example.count(pyro_vae.VAE(shape, latent_dim, (each, each))) for each in (width - 1, width, width + 1)
    }
    away = {each: abs(size - example.count(deep)) for each, size in flat.items()}
    assert away[width] == min(away.values()) and away[width] < 0.01 * example.count(deep)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "imagenet"], "--data: invalid choice: 'imagenet'"),
        (["--epochs", "0"], "--epochs: found 0, expected 1 or more"),
        (["--num-particles", "1"], "--num-particles: found 1, expected 2 or more"),
        (["--seed", "-1"], "--seed: found -1, expected 0 or more"),
        (["--seed", str(2**32)], "--seed: found 4294967296, expected 0 or more and below 2**32"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(example, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        example.main(arguments)
    errors = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in errors.splitlines()[-1] and errors.count("error:") == 1


def test_missing_data_are_named_in_one_line(example, capsys, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise FileNotFoundError(f"no images in {tmp_path}")

    monkeypatch.setattr("pyro_vae.data.load", refuse)
    assert example.main(["--data", "mnist", "--data-root", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"deeper_gaussian_layers.py: no images in {tmp_path}\n"
