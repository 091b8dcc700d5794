"""The log-probability of black and white pixels with one logarithm for 16 of them."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from mpmath import mpf
from torch import nn

from pyro_vae import ELBO, MLP, VAE, Bernoulli
from pyro_vae.likelihoods.bernoulli import IndependentBernoulli
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.likelihoods.formulas import log_sigmoid
from tests.support.programs import IMAGE, bits, traced

pytestmark = pytest.mark.usefixtures("double")


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
        assert step.gradients.is_current()
        for expected, found in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(output.bias.grad, 0.5 - x.mean(0).flatten())


class Grey(Bernoulli):
    def elementwise(self, logits):
        return dist.ContinuousBernoulli(logits=logits)


class Masked(Bernoulli):
    def elementwise(self, logits):
        return dist.Bernoulli(logits=logits).mask(MASK)


MASK = torch.tensor([True, False, True])


@pytest.mark.parametrize("kind", [Grey, Masked])
def test_a_subclass_keeps_its_own_density(kind):
    network = MLP(2, (3,))
    x = torch.tensor([0.0, 1.0, 1.0])
    found = kind(network, (3,))(torch.ones(4, 2)).log_prob(x)
    torch.testing.assert_close(found, kind.elementwise(None, network(torch.ones(4, 2))).to_event(1).log_prob(x))


def test_a_single_pixel_is_a_datum():
    logits = torch.randn(4)
    p = Bernoulli(nn.Identity(), ()).from_output(logits)
    torch.testing.assert_close(p.log_prob(torch.ones(4)), logits.sigmoid().log())
