"""Plain networks as a pair of programs: the weights of the VAE that they were taken from, and what is refused."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import wrap

SHAPE, D = (3, 4), 2
BITS = torch.bernoulli(torch.full((6, *SHAPE), 0.4, dtype=torch.float64), generator=torch.Generator().manual_seed(1))


class Encoder(nn.Module):
    """Returns what a part of the package computes, in the ways in which plain encoders return it."""

    def __init__(self, network, returns):
        super().__init__()
        self.network, self.returns = network, returns

    def forward(self, x):
        raw = self.network(x.reshape(-1, *SHAPE))
        q = pyro_vae.DiagonalNormal(nn.Identity())(raw).base_dist
        log_variance = 2 * q.scale.log()
        outputs = {
            "logvar": (q.loc, log_variance),
            "scale": [q.loc, q.scale],
            "one": torch.cat((q.loc, log_variance), 1),
            "stacked": torch.stack((q.loc, log_variance), 1),
            "convolution": (q.loc[:, :, None, None], log_variance[:, :, None, None]),
        }
        return outputs[self.returns]


class Decoder(nn.Module):
    """A decoder that takes ``(B, latent_dim)`` alone, as batch normalisation and convolutions do."""

    def __init__(self, network, returns):
        super().__init__()
        self.network, self.returns = network, returns

    def forward(self, z):
        assert z.dim() == 2
        output = self.network(z)
        channel = output[:, None]
        return {"flat": output.flatten(1), "shaped": output, "channel": channel, "probs": output.sigmoid()}[
            self.returns
        ]


@pytest.fixture
def packaged():
    torch.manual_seed(3)
    return pyro_vae.VAE(SHAPE, D, (5,)).double()


def weights(vae, x=BITS, num_particles=4):
    torch.manual_seed(0)
    return pyro_vae.log_weights(vae.model, vae.guide, x, num_particles)


@pytest.mark.parametrize("encoder", ["logvar", "scale", "one", "stacked", "convolution"])
@pytest.mark.parametrize("decoder", ["flat", "shaped", "channel", "probs"])
def test_the_weights_are_those_of_the_vae_that_the_networks_come_from(packaged, encoder, decoder):
    networks = (
        Encoder(packaged.posterior.network, encoder),
        Decoder(packaged.likelihood.network, decoder),
    )
    vae = wrap(
        *networks,
        D,
        data_shape=SHAPE,
        encoder_output="scale" if encoder == "scale" else "logvar",
        decoder_output="probs" if decoder == "probs" else None,
    )
    assert isinstance(vae, pyro_vae.VAE)
    torch.testing.assert_close(weights(vae), weights(packaged), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(vae.encode(BITS), packaged.encode(BITS), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(vae.reconstruct(BITS), packaged.reconstruct(BITS), rtol=1e-12, atol=1e-12)
    assert vae.sample(3).shape == (3, *SHAPE)


@pytest.mark.parametrize("scale", [None, 0.3, "logvar", "scale"])
@pytest.mark.parametrize("in_a_row", [True, False])
def test_a_gaussian_has_the_density_of_the_formula(double, scale, in_a_row):
    means, others = nn.Linear(D, 12), nn.Linear(D, 12)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.means, self.others = means, others

        def forward(self, z):
            pair = self.means(z), self.others(z).abs() + 0.1
            return torch.cat(pair, 1) if in_a_row else pair

    decoder = Two() if isinstance(scale, str) else means
    vae = wrap(nn.Linear(12, 2 * D), decoder, D, "gaussian", SHAPE, scale=scale)
    z, x = torch.randn(5, D), torch.randn(5, *SHAPE)
    second = (others(z).abs() + 0.1).reshape(5, *SHAPE)
    sigma = {"logvar": (second / 2).exp(), "scale": second, None: torch.tensor(1.0)}.get(scale, torch.tensor(0.3))
    error = (x - means(z).reshape(5, *SHAPE)) / sigma
    expected = (-0.5 * error**2 - sigma.log() - 0.5 * math.log(2 * math.pi)).sum((1, 2))
    torch.testing.assert_close(vae.likelihood(z).log_prob(x), expected, rtol=1e-13, atol=1e-13)


def test_any_likelihood_of_the_package_goes_over_the_decoder():
    decoder = nn.Linear(D, 2 * 12)
    vae = wrap(nn.Linear(12, 2 * D), decoder, D, pyro_vae.Laplace, SHAPE)
    z, x = torch.randn(5, D), torch.randn(5, *SHAPE)
    expected = pyro_vae.Laplace(nn.Sequential(decoder, nn.Unflatten(1, (2, *SHAPE))), SHAPE)(z).log_prob(x)
    assert torch.equal(vae.likelihood(z).log_prob(x), expected)
    poisson = wrap(nn.Linear(4, 2 * D), nn.Linear(D, 4), D, pyro_vae.Poisson)
    assert poisson.likelihood.data_shape == (4,)


def test_probabilities_are_taken_as_they_are():
    logits = torch.tensor([-80.0, -20.0, 0.0, 5.0, 30.0])
    vae = wrap(nn.Linear(5, 2 * D), nn.Sequential(nn.Linear(D, 5), nn.Sigmoid()), D, decoder_output="probs")
    vae.likelihood.network.decoder[0].weight.data.zero_()
    vae.likelihood.network.decoder[0].bias.data.copy_(logits)
    p = vae.likelihood(torch.zeros(1, D)).base_dist
    probs = logits.sigmoid()
    assert torch.equal(p.probs[0], probs)
    black, white = p.log_prob(torch.zeros(5))[0], p.log_prob(torch.ones(5))[0]
    exact = dist.Bernoulli(logits=logits.double())
    torch.testing.assert_close(black[:4].double(), exact.log_prob(torch.zeros(5).double())[:4], rtol=3e-6, atol=1e-12)
    torch.testing.assert_close(white.double(), exact.log_prob(torch.ones(5).double()), rtol=1e-6, atol=1e-6)
    assert black[4] == -math.inf  # of a probability that float32 rounds to 1
    p.log_prob(torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])).sum().backward()
    assert vae.likelihood.network.decoder[0].bias.grad.isfinite().all()


def test_methods_of_one_module_are_trained_as_its_own_and_saved_without_a_recipe(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.there, self.mean, self.logvar, self.back = (nn.Linear(*s) for s in ((12, 5), (5, D), (5, D), (D, 12)))

        def encode(self, x):
            h = self.there(x.view(-1, 12)).relu()
            return self.mean(h), self.logvar(h)

        def decode(self, z):
            return self.back(z)

    net = Net()
    before = [parameter.clone() for parameter in net.parameters()]
    vae = wrap(net.encode, net.decode, D, data_shape=SHAPE)
    x = BITS.float()
    history = pyro_vae.fit(vae.model, vae.guide, x, num_epochs=2, batch_size=3, seed=0, progress=False)
    assert len(history.records) == 2
    assert all(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
    estimate = pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles=50, seed=0)
    with pytest.warns(UserWarning, match="^save: found parts that are not of this package, Net: "):
        pyro_vae.save(vae, tmp_path / "saved")
    with pytest.raises(ValueError, match="found no recipe .*, expected load\\(folder, program\\)"):
        pyro_vae.load(tmp_path / "saved")
    other = Net()
    loaded = pyro_vae.load(tmp_path / "saved", wrap(other.encode, other.decode, D, data_shape=SHAPE))
    again = pyro_vae.log_likelihood(loaded.model, loaded.guide, x, num_particles=50, seed=0)
    assert torch.equal(again.values, estimate.values)


def test_an_encoder_of_flat_data_is_found_out_unless_it_is_said():
    flat, decoder = nn.Linear(12, 2 * D), nn.Linear(D, 12)
    assert wrap(flat, decoder, D, data_shape=SHAPE).posterior.flatten
    assert not wrap(nn.Sequential(nn.Flatten(), flat), decoder, D, data_shape=SHAPE).posterior.flatten
    assert wrap(flat, decoder, D).likelihood.data_shape == (12,)
    with pytest.raises(ValueError, match=r"^encoder: on data of shape \(2, 3, 4\): mat1 and mat2"):
        wrap(flat, decoder, D, data_shape=SHAPE, flatten=False)
