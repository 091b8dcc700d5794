"""Likelihoods: normalised densities of their data, with the scale they say; networks that do not fit are refused."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn

from pyro_vae import MLP, Bernoulli, Gaussian, ImageDecoder
from tests.programs import IMAGE, LATENT_DIM, LIKELIHOODS, NETWORKS, likelihood

pytestmark = pytest.mark.usefixtures("double")


def decoder(scale, data_shape=(3,)):
    return MLP(2, (2, *data_shape) if scale == "decoder" else data_shape, (4,))


class TestEvery:
    @pytest.mark.parametrize("name", LIKELIHOODS)
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("batch_shape", [(), (5,), (3, 5)])
    def test_one_distribution_for_each_latent(self, name, network, batch_shape):
        part = likelihood(name, network).double()
        z = torch.randn(*batch_shape, LATENT_DIM)
        p = part(z)
        assert p.batch_shape == batch_shape and p.event_shape == IMAGE
        rows = torch.stack([part(row).mean for row in z.reshape(-1, LATENT_DIM)]).reshape(*batch_shape, *IMAGE)
        torch.testing.assert_close(p.mean, rows, rtol=1e-12, atol=1e-14)
        assert p.log_prob(torch.ones(IMAGE)).shape == batch_shape

    @pytest.mark.parametrize("make", [Bernoulli, Gaussian], ids=["Bernoulli", "Gaussian"])
    @pytest.mark.parametrize("out_shape", [(4,), (1,), (3, 1), (2, 4)])
    def test_a_network_of_another_output_is_refused(self, make, out_shape):
        # An output of length one would be broadcast over the pixels without a word.
        part = make(MLP(2, out_shape, ()), (3,))
        with pytest.raises(
            ValueError, match=rf"^{make.__name__}.*: found a network output of shape .* for z of shape \(5, 2\)"
        ):
            part(torch.zeros(5, 2))


class TestBernoulli:
    def test_it_sums_to_one_over_all_images(self):
        p = Bernoulli(MLP(2, (3,), (4,)), (3,))(torch.randn(5, 2))
        images = torch.tensor(list(product([0.0, 1.0], repeat=3)))  # (8, 3)
        total = torch.stack([p.log_prob(image) for image in images]).logsumexp(0)
        torch.testing.assert_close(total, torch.zeros(5), rtol=0, atol=1e-14)

    def test_it_is_the_formula_also_for_certain_pixels(self):
        class Logits(nn.Module):
            def forward(self, z):
                return torch.tensor([-800.0, 0.5, 800.0]).expand(*z.shape[:-1], 3)

        p = Bernoulli(Logits(), (3,))(torch.zeros(1, 2))
        log_prob = p.log_prob(torch.tensor([0.0, 1.0, 0.0]))
        assert log_prob.item() == pytest.approx(-math.log1p(math.exp(-0.5)) - 800.0, rel=1e-14)

    @pytest.mark.parametrize("hidden_dims", [(), (5,)])
    def test_it_can_start_at_the_mean_pixels(self, hidden_dims):
        part = Bernoulli(MLP(2, IMAGE, hidden_dims), IMAGE)
        mean = torch.linspace(0.0, 1.0, 16).reshape(IMAGE)
        part.start_at_mean(mean)
        # At z = 0 an untrained tanh network gives its output bias alone.
        torch.testing.assert_close(part(torch.zeros(1, 2)).mean[0], mean.clamp(1e-3, 1 - 1e-3), rtol=1e-12, atol=0)
        assert all(parameter.requires_grad for parameter in part.parameters())

    @pytest.mark.parametrize(
        ("network", "mean", "message"),
        [
            (MLP(2, (3,)), torch.zeros(4), r"^mean: found the shape \(4,\), expected \(3,\)"),
            (
                ImageDecoder(2, IMAGE),
                torch.zeros(IMAGE),
                "^network: found 1 as its last bias, expected one value a pixel, 16",
            ),
            (
                nn.Linear(2, 3, bias=False),
                torch.zeros(3),
                "^network: found no bias as its last bias, expected one value",
            ),
        ],
    )
    def test_where_it_cannot(self, network, mean, message):
        part = Bernoulli(network, IMAGE if isinstance(network, ImageDecoder) else (3,))
        before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            part.start_at_mean(mean)
        assert all(torch.equal(before[name], tensor) for name, tensor in part.state_dict().items())


class TestGaussian:
    @pytest.mark.parametrize("scale", ["fixed", "shared", "per_pixel", "decoder"])
    @pytest.mark.parametrize("mean", ["identity", "sigmoid"])
    def test_it_integrates_to_one(self, scale, mean):
        # One pixel, the trapezoid rule over 12 standard deviations: its error on a Gaussian is of the order of 1e-16.
        part = Gaussian(decoder(scale, (1,)), (1,), scale=scale, mean=mean, initial_scale=0.3, low=0.1, high=2.0)
        p = part(torch.randn(5, 2))
        sigma = p.base_dist.scale
        grid = torch.linspace(-12, 12, 2001)[:, None, None] * sigma + p.mean  # (2001, 5, 1)
        total = torch.trapezoid(p.log_prob(grid).exp(), grid[..., 0], dim=0)
        torch.testing.assert_close(total, torch.ones(5), rtol=1e-12, atol=0)

    def test_it_is_the_formula(self):
        part = Gaussian(decoder("shared"), (3,), scale="shared", initial_scale=0.3)
        z, x = torch.randn(5, 2), torch.randn(3)
        squares = ((x - part.network(z)) / 0.3).square().sum(-1)
        expected = -0.5 * squares - 3 * math.log(0.3) - 1.5 * math.log(2 * math.pi)
        torch.testing.assert_close(part(z).log_prob(x), expected, rtol=1e-12, atol=0)

    @pytest.mark.parametrize(
        ("scale", "shape"), [("fixed", None), ("shared", ()), ("per_pixel", (3,)), ("decoder", None)]
    )
    def test_where_the_scale_comes_from(self, scale, shape):
        part = Gaussian(decoder(scale), (3,), scale=scale, initial_scale=0.3)
        learned = {name: tuple(p.shape) for name, p in part.named_parameters() if not name.startswith("network")}
        assert learned == ({} if shape is None else {"raw_scale": shape})
        sigma = part(torch.randn(50, 2)).base_dist.scale.expand(50, 3)
        if scale == "decoder":
            assert (sigma.std(0) > 0).all() and (sigma > 1e-2).all() and (sigma < 1e1).all()
        else:
            torch.testing.assert_close(sigma, torch.full((50, 3), 0.3), rtol=1e-6, atol=0)
        part(torch.randn(5, 2)).log_prob(torch.zeros(3)).sum().backward()
        assert all((p.grad != 0).all() for name, p in part.named_parameters() if name == "raw_scale")
        assert ("fixed_scale" in part.state_dict()) == (scale == "fixed")

    def test_a_sigmoid_squashes_the_mean_alone(self):
        network = decoder("decoder")
        plain, squashed = (Gaussian(network, (3,), mean=mean) for mean in ("identity", "sigmoid"))
        z = torch.randn(5, 2)
        assert torch.equal(squashed(z).mean, plain(z).mean.sigmoid())
        assert torch.equal(squashed(z).base_dist.scale, plain(z).base_dist.scale)

    def test_a_decoder_gone_wild_gives_a_density_still(self):
        class Wild(nn.Module):
            def forward(self, z):
                raw = torch.tensor([[0.1, 0.2, 0.3], [-math.inf, 1e30, math.inf]])
                return raw.expand(*z.shape[:-1], 2, 3)

        p = Gaussian(Wild(), (3,), low=1e-2, high=1e1)(torch.zeros(5, 2))
        torch.testing.assert_close(p.base_dist.scale[0], torch.tensor([1e-2, 1e1, 1e1]), rtol=1e-12, atol=0)
        assert torch.isfinite(p.log_prob(torch.zeros(3))).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"scale": "learned"},
                "scale: found 'learned', expected one of 'fixed', 'shared', 'per_pixel', 'decoder'$",
            ),
            ({"mean": "tanh"}, "mean: found 'tanh', expected one of 'identity', 'sigmoid'$"),
            ({"initial_scale": 0.0}, "initial_scale: found 0.0, expected a positive number"),
            ({"initial_scale": math.nan}, "initial_scale: found nan, expected a positive number"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            Gaussian(decoder("decoder"), (3,), **arguments)
