"""Walks through latent spaces, against the parts of the programs that they run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_vae import HVAE, VAE, VQVAE, ConditionalVAE, ProgramError, interpolate, plots, traverse
from tests.support.figures import texts


@pytest.fixture
def vae():
    return VAE(data_shape=(4, 4), latent_dim=3, hidden_dims=(8,))


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((5, 4, 4), 0.5))


def test_a_way_leads_from_one_reconstruction_to_the_other(vae, x):
    walks = interpolate(vae, x[:2], x[2:4], num_steps=5)
    assert walks.shape == (2, 5, 4, 4)
    torch.testing.assert_close(walks[:, 0], vae.reconstruct(x[:2]))
    torch.testing.assert_close(walks[:, -1], vae.reconstruct(x[2:4]))
    middle = (vae.encode(x[:2]) + vae.encode(x[2:4])) / 2
    torch.testing.assert_close(walks[:, 2], vae.likelihood(middle).mean)
    assert isinstance(interpolate(vae, x[:2].numpy(), x[2:4].numpy()), np.ndarray)


def test_units_are_moved_one_by_one(vae, x):
    found = traverse(vae, x[:1], units=[2, 0], values=[-1.5, 0.5])
    for row, unit in enumerate((2, 0)):
        for column, value in enumerate((-1.5, 0.5)):
            z = vae.encode(x[:1])
            z[:, unit] = value
            torch.testing.assert_close(found.images[row, column], vae.likelihood(z).mean[0])
    assert found.units.tolist() == [2, 0] and found.values.tolist() == [-1.5, 0.5] and found.latent == "z"


def test_in_a_hierarchy_the_layers_below_are_at_their_means(x):
    hvae = HVAE(data_shape=(4, 4), latent_dims=(3, 2), hidden_dims=(8,))
    found = traverse(hvae, x[:1], units=[1], values=[0.7], layer=2)
    z2 = hvae.encode(x[:1], layer=2)
    z2[:, 1] = 0.7
    torch.testing.assert_close(found.images[0, 0], hvae.likelihood(hvae.transitions[0](z2).mean).mean[0])
    assert torch.equal(found.images, traverse(hvae, x[:1], [1], [0.7], layer=2).images) and found.latent == "z2"
    walks = interpolate(hvae, x[:1], x[1:2], 3, layer=1)
    torch.testing.assert_close(walks[:, -1], hvae.reconstruct(x[1:2]))


def test_labels_are_those_of_the_first(x):
    program = ConditionalVAE(data_shape=(4, 4), num_classes=3, latent_dim=2, hidden_dims=(8,))
    packed = program.pack(x[:2], torch.tensor([0, 2]))
    torch.testing.assert_close(interpolate(program, packed, packed, 2)[:, 0], program.reconstruct(packed))


def test_figures_of_walks_are_labelled(vae, x):
    (axes,) = plots.traversal(traverse(vae, x[:1], [2, 0], [-1, 0, 1])).axes
    assert texts(axes.get_yticklabels()) == ["z[2]", "z[0]"] and texts(axes.get_xticklabels()) == ["−1", "0", "1"]
    assert axes.images[0].get_array().shape == (8, 12)
    (axes,) = plots.interpolation(interpolate(vae, x[:2], x[2:4], 3)).axes
    assert texts(axes.get_xticklabels()) == ["first", "0.50", "second"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vae, x: interpolate(vae, x[:2], x[:3]), "x2: found 3 data, expected as many as in x1, 2"),
        (lambda vae, x: interpolate(vae, x[:3], x[:2]), "x2: found 2 data, expected as many as in x1, 3"),
        (lambda vae, x: interpolate(vae, x, x, 1), "num_steps: found 1, expected 2 or more"),
        (lambda vae, x: interpolate(vae, x, x, layer=2), "layer: found 2"),
        (lambda vae, x: traverse(vae, x, [0]), "x: found 5 data, expected one"),
        (lambda vae, x: traverse(vae, x[:1], [3]), r"units: found \[3\], expected numbers from 0 to 2"),
        (lambda vae, x: traverse(vae, x[:1], [-1]), r"units: found \[-1\], expected numbers from 0 to 2"),
        (lambda vae, x: traverse(vae, x[:1], [0.5]), r"units: found \[0.5\], expected one or more whole numbers"),
        (
            lambda vae, x: traverse(vae, x[:1], [0], [float("nan")]),
            r"values: found \[nan\], expected one or more",
        ),
        (lambda vae, x: plots.traversal(x[:, None]), "units: found None, expected the units"),
        (lambda vae, x: plots.traversal(x[:, None], [1], [2]), "units: found .* expected one a row"),
        (lambda vae, x: plots.traversal(x), r"images: found shape \(5, 4, 4\), expected images \(U, V, H, W\)"),
        (lambda vae, x: plots.interpolation(x[:, None]), "images: found 1 step, expected at least 2"),
    ],
)
def test_refusals(vae, x, call, message):
    with pytest.raises(ValueError, match=message):
        call(vae, x)


def test_codes_are_refused(x):
    program = VQVAE((8, 8), num_codes=4, code_dim=2, channels=(4,))
    with pytest.raises(ProgramError, match="interpolate: found VQVAE, whose latents are codes, expected real numbers"):
        interpolate(program, torch.zeros(1, 8, 8), torch.zeros(1, 8, 8))
