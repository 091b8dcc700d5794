"""Likelihoods between 0 and 1: a Bernoulli's mass of bits, and the density of grey pixels for every logit."""

from __future__ import annotations

import functools
import math
from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from mpmath import mpf
from scipy import integrate, stats
from torch import nn

from pyro_vae import ELBO, MLP, VAE, Bernoulli, ImageDecoder
from pyro_vae.likelihoods import ContinuousBernoulli
from pyro_vae.likelihoods.binary import GreyBernoulli, IndependentBernoulli
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.likelihoods.formulas import log_sigmoid
from tests.support.programs import IMAGE, bits, traced

pytestmark = pytest.mark.usefixtures("double")


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


def log_prob(logits, x, num_event_dims):
    return IndependentBernoulli(dist.Bernoulli(logits=logits, validate_args=False), num_event_dims).log_prob(x)


def by_torch(logits, x, num_event_dims):
    return dist.Bernoulli(logits=logits, validate_args=False).to_event(num_event_dims).log_prob(x)


class TestIndependentBernoulli:
    @pytest.mark.parametrize(
        ("shape", "num_event_dims"), [((3, 32), 1), ((5, 3, 28, 28), 2), ((2, 3, 1, 8, 8), 3), ((3, 5), 1), ((16,), 1)]
    )
    def test_its_value(self, shape, num_event_dims):
        logits, x = 5 * torch.randn(shape), torch.bernoulli(torch.full(shape[-num_event_dims - 1 :], 0.3))
        logits.view(-1)[:4] = torch.tensor([-800.0, 800.0, 0.0, 60.0])
        found = log_prob(logits, x, num_event_dims)
        torch.testing.assert_close(found, by_torch(logits, x, num_event_dims), rtol=1e-13, atol=1e-13)

    def test_in_float32_it_is_as_exact_as_torchs(self):
        logits, x = 5 * torch.randn(50, 784).float(), torch.bernoulli(torch.full((50, 784), 0.3)).float()
        exact = by_torch(logits.double(), x.double(), 1)
        error = (log_prob(logits, x, 1) - exact).abs().max()
        assert error < 2 * (by_torch(logits, x, 1) - exact).abs().max()

    def test_its_gradient_in_a_network(self):
        inputs, x = torch.randn(3, 32), torch.bernoulli(torch.full((3, 32), 0.3))
        layer = nn.Linear(32, 32)
        found, expected = (
            torch.autograd.grad(function(layer(inputs), x, 1).sum(), list(layer.parameters()))
            for function in (log_prob, by_torch)
        )
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("bit", [0.0, 1.0])
    @pytest.mark.parametrize("logit", [0.0, 1e-3, -1e-3, 2.0, 15.0, 30.0, -30.0, 100.0, -100.0])
    def test_it_is_right_to_the_last_digits_of_each_type(self, logit, bit, dtype):
        """Also where all pixels are sure and right; a product of 16 factors of 2 is beyond float16."""
        logits, x = torch.full((2, 32), logit, dtype=dtype), torch.full((2, 32), bit, dtype=dtype)
        value = log_prob(logits, x, 1)
        assert value.dtype == dtype
        exact = 32 * log_sigmoid(mpf(logits[0, 0].item()) * (1 if bit else -1))
        info = torch.finfo(dtype)
        smallest = info.smallest_normal * info.eps + 32 * 1.4e-45  # of its numbers, and of the 32 that are summed
        assert abs(mpf(value[0].item()) - exact) <= 4 * info.eps * abs(exact) + smallest

    def test_an_image_of_sure_pixels(self):
        logits, x = torch.full((1, 784), 15.0, dtype=torch.float32), torch.ones(1, 784, dtype=torch.float32)
        assert log_prob(logits, x, 1).item() == pytest.approx(-2.398e-4, rel=1e-3)

    def test_the_gradient_of_a_logit(self):
        """Of a logit that is exactly 0 too, where the absolute value in the formula has none."""
        logits = torch.tensor(
            [0.0, 0.0, 1e-3, -1e-3, 15.0, -15.0, 100.0, 0.0] * 2, dtype=torch.float32
        ).requires_grad_()
        x = torch.tensor([0.0, 1.0] * 8, dtype=torch.float32)
        log_prob(logits, x, 1).backward()
        torch.testing.assert_close(logits.grad, x - logits.detach().sigmoid(), rtol=1e-6, atol=1e-7)
        assert logits.grad[:2].tolist() == [-0.5, 0.5]

    @pytest.mark.parametrize("shape", [(3, 4, 2), (4, 2), (2,), (2, 1, 4, 2), (2, 3, 1, 1)])
    @pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # of torch's forward mode
    def test_its_derivatives_to_the_second_also_of_grey_pixels(self, shape):
        logits, x = torch.randn(3, 4, 2).requires_grad_(), torch.rand(shape).requires_grad_()
        function = functools.partial(log_prob, num_event_dims=2)
        torch.testing.assert_close(function(logits, x), by_torch(logits, x, 2))
        assert torch.autograd.gradcheck(function, (logits, x), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, (logits, x))

    @pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # of torch's forward mode
    def test_the_transforms_of_torch(self):
        logits, x = torch.randn(3, 8), torch.bernoulli(torch.full((8,), 0.3))
        for transform in (
            lambda f: torch.func.vmap(torch.func.grad(f)),
            lambda f: torch.func.vmap(torch.func.hessian(f)),
        ):
            found, expected = (
                transform(functools.partial(function, x=x, num_event_dims=1))(logits)
                for function in (log_prob, by_torch)
            )
            torch.testing.assert_close(found, expected)

    def test_an_expanded_one(self):
        part = Bernoulli(MLP(2, IMAGE), IMAGE)
        p, x = part(torch.randn(3, 2)), bits(4).double()[:, None]
        expanded = p.expand((4, 3))
        assert isinstance(expanded, IndependentBernoulli)
        expected = by_torch(p.base_dist.logits, x, 2)
        torch.testing.assert_close(expanded.log_prob(x), expected)
        torch.testing.assert_close(p.mask(torch.tensor([True, False, True])).log_prob(x)[:, 1], torch.zeros(4))

    def test_what_it_refuses(self):
        p = IndependentBernoulli(dist.Bernoulli(logits=torch.zeros(2, 3), validate_args=True), 1)
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.full((3,), 0.5))

    def test_a_decoder_that_starts_at_zero_compiled(self):
        """All its logits are 0 at the first step; the graph is run as TorchInductor is given it."""
        x = bits(6)
        gradients = []
        pair = VAE(IMAGE, 2, (5,))
        (*_, output) = (layer for layer in pair.model.modules() if isinstance(layer, nn.Linear))
        with torch.no_grad():
            output.weight.zero_(), output.bias.zero_()
        for make in (EagerStep, functools.partial(CompiledStep, lower=traced)):
            step = make(pair.model, pair.guide, pair, ELBO())
            torch.manual_seed(3)
            with pyro.validation_enabled(False):
                step(x)
            gradients.append([parameter.grad.clone() for parameter in pair.parameters()])
        assert step.is_current()
        for expected, found in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(output.bias.grad, 0.5 - x.mean(0).flatten())


def normaliser(logit):
    """log of the integral of e^(λx) over [0, 1], by quadrature of a function that is at most 1."""
    total, _ = integrate.quad(lambda x: math.exp(logit * x - max(logit, 0.0)), 0, 1, points=[0.01, 0.99], epsabs=1e-14)
    return math.log(total) + max(logit, 0.0)


class TestContinuousBernoulli:
    @pytest.mark.parametrize("logit", [-300.0, -16.0, -0.51, -0.49, -1e-3, 0.0, 1e-9, 0.1, 0.5, 3.0, 40.0, 300.0])
    def test_it_integrates_to_one(self, logit):
        p = GreyBernoulli(torch.tensor(logit))
        x = torch.linspace(0, 1, 11)
        torch.testing.assert_close(p.log_prob(x), logit * x - normaliser(logit), rtol=1e-10, atol=1e-10)

    def test_a_likelihood_is_their_product(self):
        part = ContinuousBernoulli(MLP(2, (3,), (4,)), (3,))
        z, x = torch.randn(5, 2), torch.rand(5, 3)
        logits = part.network(z)
        expected = sum(GreyBernoulli(logits[:, i]).log_prob(x[:, i]) for i in range(3))
        torch.testing.assert_close(part(z).log_prob(x), expected, rtol=1e-12, atol=1e-12)

    def test_it_is_the_bernoulli_divided_by_its_integral(self):
        logits, x = 5 * torch.randn(50), torch.rand(50)
        bernoulli = torch.distributions.Bernoulli(logits=logits, validate_args=False).log_prob(x)
        integral = torch.expm1(logits) / (logits * (1 + logits.exp()))
        torch.testing.assert_close(
            GreyBernoulli(logits).log_prob(x), bernoulli - integral.log(), rtol=1e-10, atol=1e-12
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_its_gradient_is_the_distance_from_its_mean(self, dtype):
        # of an exponential family: d log p / dλ = x - E[x]; also where series and closed form meet, and at 0
        sizes = torch.cat([torch.zeros(1), torch.logspace(-12, 4, 200), torch.tensor([0.5 - 1e-9, 0.5, 0.5 + 1e-9])])
        logits = torch.cat([sizes, -sizes]).to(dtype).requires_grad_()
        p = GreyBernoulli(logits)
        for x in (0.0, 0.3, 1.0):
            (gradient,) = torch.autograd.grad(p.log_prob(torch.tensor(x, dtype=dtype)).sum(), logits)
            atol = 1e-12 if dtype == torch.float64 else 1e-6
            torch.testing.assert_close(gradient, x - p.mean.detach(), rtol=0, atol=atol)

    def test_float32_agrees_with_float64(self):
        sizes = torch.cat([torch.zeros(1), torch.logspace(-12, 4, 200)])
        logits = torch.cat([sizes, -sizes])[:, None].float()
        x = torch.tensor([0.0, 1e-3, 0.5, 0.999, 1.0])
        exact = GreyBernoulli(logits.double()).log_prob(x)
        found = GreyBernoulli(logits).log_prob(x.float()).double()
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-3)  # λ (x - x rounded to float32), to 6e-4
        ends = (x == 0) | (x == 1)
        torch.testing.assert_close(found[:, ends], exact[:, ends], rtol=3e-7, atol=5e-7)

    def test_it_is_symmetric(self):
        logits, x = 100 * torch.randn(50), torch.rand(50)
        one, other = GreyBernoulli(logits), GreyBernoulli(-logits)
        torch.testing.assert_close(one.log_prob(x), other.log_prob(1 - x), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(one.mean, 1 - other.mean, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("logit", [-300.0, -3.0, -1e-7, 0.0, 0.4, 3.0, 300.0])
    def test_its_mean_and_its_draws(self, logit):
        p = GreyBernoulli(torch.tensor(logit))
        mean, _ = integrate.quad(
            lambda x: x * p.log_prob(torch.tensor(x)).exp().item(), 0, 1, points=[0.01, 0.99], epsabs=1e-13
        )
        assert p.mean.item() == pytest.approx(mean, rel=1e-10)
        size = abs(logit)  # of the distance from the likely end
        cdf = stats.truncexpon(size, scale=1 / size).cdf if size > 1e-6 else stats.uniform.cdf
        draws = p.sample((5_000,)).numpy()
        assert stats.kstest(1 - draws if logit > 0 else draws, cdf).pvalue > 1e-6  # a false alarm in a million seeds
