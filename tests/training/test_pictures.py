"""fit refuses arrays whose colours are last, which the package's programs would train on without a complaint."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import VAE
from tests.test_newcomers import Guide, Model

X = np.random.default_rng(0).random((12, 6, 8, 3))
OTHERS = r"or pyro_vae.data.load\(x, channels='last'\); its channels='first' takes them as they are$"


def train(data, shape=(6, 8, 3), wrapped=lambda *pair: pair, **options):
    vae = VAE(shape, 2, (5,), "gaussian")
    options = {"num_epochs": 1, "batch_size": 4, "progress": False} | options
    return pyro_vae.fit(*wrapped(vae.model, vae.guide), data, **options)


@pytest.mark.parametrize("shape", [(6, 8, 3), (3, 6, 8)])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_colours_that_are_last_are_refused(shape, as_tensor):
    x = torch.from_numpy(X) if as_tensor else X
    move = r"x.permute\(0, 3, 1, 2\)" if as_tensor else r"x.transpose\(0, 3, 1, 2\)"
    message = rf"^data: found shape \(12, 6, 8, 3\), which looks like pictures .* give {move}, {OTHERS}"
    with pytest.raises(ValueError, match=message):
        train(x, shape)


def test_so_are_those_of_several_arguments_of_validation_data_and_of_weighed_programs():
    good = pyro_vae.data.load(X, channels="first").train
    with pytest.raises(ValueError, match=r"^valid: found shape .*" + OTHERS):
        train(good, valid=X)
    for data in ((X, np.zeros(12)), {"x": X}):
        with pytest.raises(ValueError, match=r"^data: found shape .*" + OTHERS):
            train(data)
    with pytest.raises(ValueError, match=OTHERS):
        train(X, wrapped=lambda *pair: pyro_vae.anneal_kl(*pair, 0.5))


def test_what_the_sentence_says_works():
    for channels, shape in (("first", (6, 8, 3)), ("last", (3, 6, 8))):
        data = pyro_vae.data.load(X, channels=channels)
        assert len(train(data, shape).records) == 1
    assert len(train(X.transpose(0, 3, 1, 2), (3, 6, 8)).records) == 1


def test_programs_of_ones_own_take_what_they_were_written_for():
    class Colours(Model):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                loc = self.decoder(z)[..., :1, None, None]
                pyro.sample("x", dist.Normal(loc, 1.0).expand([*loc.shape[:-3], 6, 8, 3]).to_event(3), obs=x)

    encoder = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
    pyro_vae.fit(Colours(), Guide(encoder=encoder), X.astype("float32"), num_epochs=1, batch_size=4, progress=False)


def test_a_loader_s_pictures_are_told_how_to_move():
    loader = torch.utils.data.DataLoader(torch.from_numpy(X).float(), batch_size=4)
    message = r"expected \(N, 3, 6, 8\) .*; x.permute\(0, 3, 1, 2\) moves colours from the last place to the first$"
    with pytest.raises(ValueError, match=message):
        train(loader, (3, 6, 8))
