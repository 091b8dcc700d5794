"""Priors: normalised densities; a VampPrior is the aggregate posterior, and shares the guide's encoder safely."""

from __future__ import annotations

import copy
import math
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyro_vae
from pyro_vae import (
    ELBO,
    HVAE,
    M2,
    MLP,
    VAE,
    VQVAE,
    ConditionalVAE,
    DiagonalNormal,
    Flow,
    FlowPosterior,
    FlowPrior,
    GaussianMixture,
    LadderVAE,
    LearnedNormal,
    StandardNormal,
    VampPrior,
)
from pyro_vae.priors.mixture import DiagonalMixture
from tests.support.programs import IMAGE, bits, perturbed, weights

LATENT_DIM = 2


def posterior():
    return DiagonalNormal(MLP(IMAGE, (2, LATENT_DIM), (5,)))


PRIORS = {
    "standard": lambda: StandardNormal(LATENT_DIM),
    "learned": lambda: LearnedNormal(LATENT_DIM),
    "mixture": lambda: GaussianMixture(3, LATENT_DIM),
    "vamp": lambda: VampPrior(4, posterior(), IMAGE),
    "flow": lambda: FlowPrior(Flow("spline", LATENT_DIM, hidden_dims=(5,))),
}
every_prior = pytest.mark.parametrize("name", PRIORS)


@every_prior
def test_it_integrates_to_one(name, double):
    torch.manual_seed(0)
    p = perturbed(PRIORS[name]().double())()
    steps = torch.linspace(-25, 25, 501)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
    total = p.log_prob(grid).exp().sum() * 0.1**2
    assert (p.batch_shape, p.event_shape) == ((), (LATENT_DIM,))
    assert total.item() == pytest.approx(1.0, abs=1e-4)


@every_prior
def test_draws_follow_the_density(name, double):
    """The mean log-density of draws is minus the entropy, by the grid; 4 standard errors, one false alarm in 10^4."""
    torch.manual_seed(0)
    p = perturbed(PRIORS[name]().double())()
    steps = torch.linspace(-25, 25, 501)
    log_p = p.log_prob(torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1))
    expected = (log_p.exp() * log_p).sum() * 0.1**2
    found = p.log_prob(p.sample((4_000,)))
    assert abs(found.mean() - expected) < 4 * found.std() / 4_000**0.5


class TestMixture:
    def test_it_is_the_formula(self, double):
        prior = perturbed(GaussianMixture(3, LATENT_DIM).double())
        p, z = prior(), torch.randn(5, LATENT_DIM)
        log_normal = torch.distributions.Normal(p.loc, p.scale).log_prob(z[:, None]).sum(-1)  # (5, M)
        expected = (prior.logits.log_softmax(0) + log_normal).logsumexp(-1)
        torch.testing.assert_close(p.log_prob(z), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(p.expand((7, 5)).log_prob(z), expected.expand(7, 5), rtol=1e-12, atol=0)

    def test_it_is_exact_in_single_precision_far_from_zero(self):
        torch.manual_seed(0)
        loc, scale = 100 + torch.randn(4, 3), torch.full((4, 3), 1e-3)
        z = loc[:2] + 1e-3 * torch.randn(2, 3)
        found = DiagonalMixture(torch.zeros(4), loc, scale).log_prob(z)
        exact = torch.distributions.Normal(loc.double(), scale.double()).log_prob(z.double()[:, None]).sum(-1)
        torch.testing.assert_close(found, (exact.logsumexp(-1) - math.log(4)).float(), rtol=1e-6, atol=0)

    def test_its_moments_are_those_of_its_draws(self, double):
        """100,000 draws; 5 standard errors, one false alarm in a million."""
        torch.manual_seed(0)
        p = perturbed(GaussianMixture(3, LATENT_DIM).double())().expand((2,))
        z = p.sample((100_000,))
        assert z.shape == (100_000, 2, LATENT_DIM) and p.mean.shape == p.variance.shape == (2, LATENT_DIM)
        assert ((z.mean(0) - p.mean).abs() < 5 * z.std(0) / 100_000**0.5).all()
        fourth = (z - p.mean).pow(2).std(0) / 100_000**0.5
        assert ((z.var(0) - p.variance).abs() < 5 * fourth).all()

    @pytest.mark.parametrize(("count", "length", "name"), [(0, 2, "num_components"), (2, 0, "latent_dim")])
    def test_sizes(self, count, length, name):
        with pytest.raises(ValueError, match=f"^{name}: found 0, expected a positive integer"):
            GaussianMixture(count, length)


class TestVampPrior:
    def test_with_every_datum_it_is_the_aggregate_posterior(self, double):
        x, q = bits(6).double(), posterior().double()
        prior = VampPrior(6, q, IMAGE).double()
        prior.start_at(x)
        z = torch.randn(7, LATENT_DIM)
        expected = torch.stack([q(datum[None]).log_prob(z) for datum in x]).logsumexp(0) - math.log(6)
        torch.testing.assert_close(prior().log_prob(z), expected, rtol=1e-12, atol=1e-12)

    def test_the_components_can_be_what_a_flow_starts_with(self, double):
        q = FlowPosterior(Flow("coupling", LATENT_DIM, 5), MLP(IMAGE, None, (5,))).double()
        whole, start = (VampPrior(3, q, IMAGE, components=c).double() for c in ("posterior", "start"))
        start.load_state_dict(whole.state_dict())
        z = torch.randn(4, LATENT_DIM)
        contexts = q(whole.pseudo_inputs)
        for prior, components in ((whole, contexts), (start, contexts.base)):
            expected = torch.stack([components.log_prob(each[None]) for each in z]).logsumexp(1) - math.log(3)
            torch.testing.assert_close(prior().log_prob(z), expected, rtol=1e-10, atol=1e-10)

    def test_it_brings_its_posterior_along(self):
        q = posterior()
        vae = VAE(IMAGE, LATENT_DIM, (5,), prior=VampPrior(3, q, IMAGE))
        assert vae.posterior is q and vae.model.posterior is q
        other = VAE(IMAGE, LATENT_DIM, (5,), prior=VampPrior(3, q, IMAGE), posterior=q)
        assert other.guide.posterior is other.model.posterior is q

    def test_the_prior_is_trained_with_the_encoder_as_one(self, double):
        """A step of plain Pyro moves each parameter by its gradient once: nothing is registered or stepped twice."""
        vae = VAE(IMAGE, LATENT_DIM, (5,), prior=VampPrior(3, posterior(), IMAGE)).double()
        x = bits(8).double()
        before = {name: p.detach().clone() for name, p in vae.named_parameters()}
        torch.manual_seed(5)
        loss = ELBO().differentiable_loss(vae.model, vae.guide, x)
        named = dict(vae.named_parameters())
        gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        torch.manual_seed(5)
        svi = SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 1e-3}), loss=Trace_ELBO())
        assert svi.step(x) == pytest.approx(loss.item(), rel=1e-12)
        for name, parameter in vae.named_parameters():
            torch.testing.assert_close(parameter, before[name] - 1e-3 * gradients[name], rtol=1e-10, atol=1e-12)
        assert len(list(pyro.get_param_store().keys())) == len(before)

    def test_the_prior_gives_the_encoder_a_gradient(self):
        vae = VAE(IMAGE, LATENT_DIM, (5,), prior=VampPrior(3, posterior(), IMAGE))
        vae.prior().log_prob(torch.ones(LATENT_DIM)).backward()
        assert all((p.grad != 0).any() for p in vae.posterior.parameters())

    def test_a_copy_and_a_checkpoint_share_the_encoder_again(self, tmp_path):
        vae = perturbed(VAE(IMAGE, LATENT_DIM, (5,), prior=VampPrior(3, q := posterior(), IMAGE), posterior=q))
        pyro_vae.save(vae, tmp_path)
        for other in (copy.deepcopy(vae), pyro_vae.load(tmp_path)):
            assert other.prior.shared["posterior"] is other.posterior is other.model.posterior
            assert other.posterior is not vae.posterior
            for name, value in weights(vae).items():
                assert torch.equal(weights(other)[name], value)
            torch.manual_seed(0)
            expected = ELBO().bound(vae.model, vae.guide, bits(3))
            torch.manual_seed(0)
            assert torch.equal(ELBO().bound(other.model, other.guide, bits(3)), expected)

    def test_double_precision_and_devices_reach_the_encoder(self, device):
        vae = VAE(IMAGE, LATENT_DIM, (5,), prior=VampPrior(3, posterior(), IMAGE)).to(device, torch.float64)
        draw = vae.prior().sample()
        assert (draw.device.type, draw.dtype) == (device.type, torch.float64)

    def test_pseudo_inputs_start_at_data(self):
        prior = VampPrior(5, posterior(), IMAGE)
        prior.start_at(x := bits(3))
        assert torch.equal(prior.pseudo_inputs, x[[0, 1, 2, 0, 1]])

    def test_bad_input(self):
        q = posterior()
        with pytest.raises(ValueError, match="^num_pseudo_inputs: found 0, expected a positive integer"):
            VampPrior(0, q, IMAGE)
        with pytest.raises(ValueError, match="^components: found 'base', expected one of 'posterior', 'start'"):
            VampPrior(2, q, IMAGE, components="base")
        with pytest.raises(ValueError, match="^components: found 'start' with Independent.*, expected a FlowPosterior"):
            VampPrior(2, q, IMAGE, components="start")()
        with pytest.raises(ValueError, match=r"^x: found the shape \(3, 5\), expected \(N, 4, 4\)"):
            VampPrior(2, q, IMAGE).start_at(torch.zeros(3, 5))
        with pytest.raises(ValueError, match="^posterior: found another one than the VampPrior shares"):
            VAE(IMAGE, LATENT_DIM, prior=VampPrior(2, q, IMAGE), posterior=posterior())

    @pytest.mark.parametrize(
        "make",
        [
            partial(ConditionalVAE, IMAGE, 3, LATENT_DIM, (5,)),
            partial(M2, IMAGE, 3, LATENT_DIM, (5,)),
            partial(HVAE, IMAGE, (2, LATENT_DIM), ((5,), (5,))),
            partial(LadderVAE, IMAGE, (2, LATENT_DIM), ((5,), (5,))),
            partial(VQVAE, IMAGE, 4),
        ],
        ids=lambda make: make.func.__name__,
    )
    def test_a_program_without_a_posterior_to_share_refuses_it(self, make):
        with pytest.raises(TypeError, match="^prior: found VampPrior, which runs a posterior on pseudo-inputs"):
            make(prior=VampPrior(2, posterior(), IMAGE))
