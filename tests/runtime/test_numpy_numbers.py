"""Numbers and arrays of NumPy are taken where Python's are, and come back from files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae import HVAE, M2, VAE, Gaussian, StudentT, fit, log_likelihood

X = torch.bernoulli(torch.full((24, 4), 0.5), generator=torch.Generator().manual_seed(0))
MAKERS = {
    "an array of widths": lambda: VAE((4,), 2, hidden_dims=np.array([5, 3])),
    "a list of them": lambda: VAE([np.int64(4)], np.int64(2), [np.int64(5)]),
    "a shape": lambda: VAE(np.array([4]), 2, (5,)),
    "torch's": lambda: VAE(torch.Size([4]), 2, (5,)),
    "layers": lambda: HVAE((4,), np.array([3, 2]), (5,)),
    "bounds": lambda: VAE((4,), 2, (5,), Gaussian(pyro_vae.MLP(2, (2, 4)), (4,), low=np.float32(0.1))),
    "degrees of freedom": lambda: VAE((4,), 2, (5,), StudentT(pyro_vae.MLP(2, (2, 4)), (4,), df=np.int64(3))),
    "classes": lambda: M2((4,), np.int64(3), 2, (5,)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_program_of_such_sizes_is_saved_and_loaded(name, tmp_path):
    program = MAKERS[name]()
    json.dumps(program.recipe)
    pyro_vae.save(program, tmp_path)
    loaded = pyro_vae.load(tmp_path)
    assert {n: p.shape for n, p in loaded.named_parameters()} == {n: p.shape for n, p in program.named_parameters()}


def test_a_run_of_such_numbers_is_written_and_resumed(tmp_path):
    def train(**options):
        vae = VAE((4,), 2, (5,))
        return fit(
            vae.model, vae.guide, X, num_epochs=np.int64(2), batch_size=np.int32(6), seed=np.int64(1),
            clip_norm=np.float32(1), progress=np.False_, checkpoint=tmp_path, **options,
        )  # fmt: skip

    train(lr=np.float32(1e-3))
    train(lr=lambda done: np.float32(1e-3), resume=True)
    vae = VAE((4,), 2, (5,))
    assert len(log_likelihood(vae.model, vae.guide, X, np.int64(3), batch_size=np.int64(5)).values) == 24


def test_data_of_unsigned_integers_in_a_loader():
    vae = VAE((4,), 2, (5,))
    data = torch.utils.data.TensorDataset(X.to(torch.uint32))
    loader = torch.utils.data.DataLoader(data, batch_size=6)
    assert fit(vae.model, vae.guide, loader, num_epochs=1, progress=False).records


def test_a_recipe_of_somebody_else_is_none_of_ours(tmp_path):
    vae = VAE((4,), 2, (5,))
    vae.model.recipe = vae.guide.recipe = "two eggs"
    pyro_vae.save((vae.model, vae.guide), tmp_path)
    pyro_vae.load(tmp_path, (vae.model, vae.guide))
