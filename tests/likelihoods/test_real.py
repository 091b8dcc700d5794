"""Likelihoods of real numbers: densities around a location, with the scale that they say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from pyro_vae import MLP, Gaussian
from pyro_vae.likelihoods import Laplace, StudentT

pytestmark = pytest.mark.usefixtures("double")


def decoder(scale, data_shape=(3,)):
    return MLP(2, (2, *data_shape) if scale == "decoder" else data_shape, (4,))


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


FAMILIES = {
    "Laplace": (Laplace, {}, stats.laplace()),
    "StudentT": (StudentT, {"df": 2.5}, stats.t(2.5)),
}


@pytest.mark.parametrize(("make", "arguments", "reference"), FAMILIES.values(), ids=FAMILIES)
class TestOthers:
    @pytest.mark.parametrize("scale", ["fixed", "shared", "per_pixel", "decoder"])
    def test_they_are_scipys_densities(self, scale, make, arguments, reference):
        part = make(
            decoder(scale), (3,), scale=scale, mean="sigmoid", initial_scale=0.3, low=0.1, high=2.0, **arguments
        )
        z, x = torch.randn(5, 2), 10 * torch.randn(5, 3)
        p = part(z)
        loc, sigma = p.base_dist.loc, p.base_dist.scale
        assert (loc > 0).all() and (loc < 1).all() and torch.equal(p.mean, loc)
        expected = reference.logpdf(((x - loc) / sigma).detach().numpy()) - sigma.log().detach().numpy()
        found = p.log_prob(x).detach()
        torch.testing.assert_close(found, torch.from_numpy(expected).sum(-1), rtol=1e-12, atol=1e-12)

    def test_their_draws(self, make, arguments, reference):
        part = make(decoder("fixed", (1,)), (1,), scale="fixed", initial_scale=0.3, **arguments)
        p = part(torch.zeros(2))
        draws = (p.sample((5_000,)).flatten() - p.mean.item()) / 0.3
        assert stats.kstest(draws.numpy(), reference.cdf).pvalue > 1e-6  # a false alarm in a million seeds

    def test_an_outlier_counts_less_than_under_a_gaussian(self, make, arguments, reference):
        log_p = [
            kind(decoder("fixed"), (3,), scale="fixed", **options)(torch.zeros(2)).log_prob(torch.full((3,), 50.0))
            for kind, options in ((Gaussian, {}), (make, arguments))
        ]
        assert log_p[1] > log_p[0] + 1000


class TestStudentT:
    def test_many_degrees_of_freedom_make_a_gaussian(self):
        network, z, x = decoder("decoder"), torch.randn(5, 2), torch.randn(5, 3)
        one, other = StudentT(network, (3,), df=1e7)(z), Gaussian(network, (3,))(z)
        torch.testing.assert_close(one.log_prob(x), other.log_prob(x), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("df", [1.0, -2.0, math.nan])
    def test_without_a_mean_it_is_refused(self, df):
        with pytest.raises(ValueError, match=rf"^df: found {df}, expected a number above 1$"):
            StudentT(decoder("decoder"), (3,), df=df)

    def test_the_degrees_of_freedom_are_not_learned(self):
        part = StudentT(decoder("decoder"), (3,), df=3.0)
        assert all(name.startswith("network") for name, _ in part.named_parameters())
        assert part.state_dict()["df"] == 3.0
