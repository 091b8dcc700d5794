"""Data outside the likelihood's support are refused where they are only encoded, as where they are scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import pyro_vae

BITS = torch.bernoulli(torch.full((9, 4, 4), 0.5), generator=torch.Generator().manual_seed(0))
Y = torch.arange(9) % 3


def bytes_beside(x):
    x = x.clone()
    x[7, 1, 2] = 255
    return x


@pytest.mark.parametrize("method", ["encode", "reconstruct"])
@pytest.mark.parametrize("data", [torch.Tensor.byte, np.asarray, lambda x: DataLoader(x, 4), lambda x: {"x": x}])
def test_the_error_is_that_of_log_likelihood(method, data):
    vae = pyro_vae.VAE((4, 4), 2, (5,))
    message = (
        r"^x: found the value 255 at \(7, 1, 2\), outside the support of site 'x', expected what a Bernoulli covers"
    )
    for run in (
        lambda x: getattr(vae, method)(x, batch_size=4),
        lambda x: pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles=2),
    ):
        with pytest.raises(ValueError, match=message):
            run(data(bytes_beside(BITS)))


@pytest.mark.parametrize("kind", [pyro_vae.ConditionalVAE, pyro_vae.M2])
def test_of_labelled_data_too(kind):
    program = kind((4, 4), 3, 2, (5,))
    program.encode((BITS, Y))
    for data in ((bytes_beside(BITS), Y), program.pack(bytes_beside(BITS), Y)):
        with pytest.raises(
            ValueError, match=r"^x: found the value 255 at \(7, 1, 2\), outside the support of site 'x'"
        ):
            program.encode(data)


def test_what_is_missing_is_not_checked():
    vae = pyro_vae.VAE((4, 4), 2, (5,), pyro_vae.Categorical(pyro_vae.MLP(2, (256, 4, 4)), (4, 4)))
    x = bytes_beside(BITS)
    x[7, 1, 2] = torch.nan
    packed = pyro_vae.pack(x)
    packed[7, 0, 1, 2] = 255
    vae.encode(packed)
    packed[8, 0, 0, 1] = 200
    with pytest.raises(ValueError, match=r"^x: found the value 200 at \(8, 0, 1\), outside the support of site 'x'"):
        vae.encode(packed)


def test_generators_stay_as_they_were():
    vae = pyro_vae.VAE((4, 4), 2, (5,))
    before = torch.get_rng_state()
    vae.encode(BITS)
    assert torch.equal(torch.get_rng_state(), before)
