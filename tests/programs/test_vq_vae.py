"""The vector-quantised autoencoder: a true bound and the paper's two gradients."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_vae
from pyro_vae import ELBO, IWAE
from tests.support.programs import check_close
from tests.support.vq_vaes import CLOSE, GRIDS, K, by_hand, double, make, x


@double
@pytest.mark.parametrize("prior", ["independent", "autoregressive"])
class TestBound:
    def test_it_is_the_two_terms_in_nats(self, prior):
        vq, data = make(prior=prior).eval(), x()
        log_p_x, log_p_z, *_ = by_hand(vq, data)
        torch.testing.assert_close(ELBO().bound(vq.model, vq.guide, data), log_p_x + log_p_z, **CLOSE)
        assert log_p_z.std() > 1e-4 and (log_p_z - 4 * math.log(1 / K)).abs().max() > 1e-3

    def test_log_q_is_zero_and_all_particles_are_one(self, prior):
        vq, data = make(prior=prior).eval(), x()
        expected = sum(by_hand(vq, data)[:2])
        trace = poutine.trace(vq.guide).get_trace(data)
        assert (trace.nodes["z"]["fn"].log_prob(trace.nodes["z"]["value"]) == 0).all()
        log_w = pyro_vae.log_weights(vq.model, vq.guide, data, num_particles=4)
        torch.testing.assert_close(log_w, expected.expand(4, 6), **CLOSE)
        torch.testing.assert_close(IWAE(4).bound(vq.model, vq.guide, data), expected, **CLOSE)

    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_the_likelihood_is_the_bound(self, prior, num_particles):
        vq, data = make(prior=prior), x()
        score = pyro_vae.log_likelihood(vq.model, vq.guide, data, num_particles)
        torch.testing.assert_close(score.values, sum(by_hand(vq, data)[:2]).detach(), **CLOSE)

    def test_it_is_below_the_sum_over_all_codes(self, prior):
        """p(x) = sum_z p(z) p(x|z), 81 terms, of which the bound is one."""
        vq, data = make(prior=prior).eval(), x()
        z = vq.codebook.vectors[GRIDS].flatten(1)  # (81, 8)
        log_p = vq.likelihood(z[:, None]).log_prob(data) + vq.prior().log_prob(GRIDS)[:, None]  # (81, B)
        bound = ELBO().bound(vq.model, vq.guide, data)
        assert (bound < log_p.logsumexp(0)).all()
        assert ((bound - log_p).abs().amin(0) < 1e-10).all()


@double
class TestGradient:
    def gradients(self, vq, data, objective=None):
        """By the encoder's outputs, of the bounds' sum; and the outputs."""
        held = []
        handle = vq.encoder.register_forward_hook(lambda module, args, output: held.append(output))
        bound = (objective or ELBO()).bound(vq.model, vq.guide, data).sum()
        handle.remove()
        is_stl = objective is not None and objective.gradient == "stl"
        assert len(held) == (3 if is_stl else 1)  # two more score the codes
        return torch.autograd.grad(bound, held[0])[0], held[0].detach()

    def test_straight_through_it_is_the_decoders(self):
        vq, data = make(commitment=0.0).eval(), x()
        found, _ = self.gradients(vq, data)
        z = by_hand(vq, data)[3].clone().requires_grad_()
        log_p = vq.likelihood(z.flatten(1)).log_prob(data).sum()
        torch.testing.assert_close(found, torch.autograd.grad(log_p, z)[0], **CLOSE)
        assert (found != 0).all()

    @pytest.mark.parametrize(
        "objective",
        [ELBO(), ELBO(3), ELBO(kl="analytic"), IWAE(3)],
        ids=["elbo", "particles", "analytic", "iwae"],
    )
    def test_of_the_commitment(self, objective):
        """2 β (e - z_e), for the sum of the squared distances over the positions."""
        data, beta = x(), 0.3
        vq = make(commitment=beta).eval()
        found, outputs = self.gradients(vq, data, objective)
        vq.guide.commitment = 0.0
        without, _ = self.gradients(vq, data, objective)
        torch.testing.assert_close(found - without, 2 * beta * (by_hand(vq, data)[3] - outputs), **CLOSE)

    @pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()], ids=lambda v: type(v).__name__)
    def test_under_the_losses_of_pyro(self, loss):
        data, results = x(), []
        vq = make().eval()
        for objective in (ELBO(), loss):
            vq.zero_grad()
            value = objective.differentiable_loss(vq.model, vq.guide, data)
            value.backward()
            results.append({"loss": value.detach()} | {name: p.grad.clone() for name, p in vq.named_parameters()})
        check_close(results[1], results[0], **CLOSE)

    def test_the_commitment_has_no_value(self):
        vq, data = make(commitment=1.0).eval(), x()
        bound = ELBO().bound(vq.model, vq.guide, data)
        vq.guide.commitment = 1e6
        assert torch.equal(ELBO().bound(vq.model, vq.guide, data), bound)

    @pytest.mark.parametrize("prior", ["independent", "autoregressive"])
    def test_log_p_of_the_codes_trains_the_prior_alone(self, prior):
        vq, data = make(prior=prior).eval(), x()
        trace = poutine.trace(poutine.replay(vq.model, trace=poutine.trace(vq.guide).get_trace(data))).get_trace(data)
        trace.nodes["z"]["fn"].log_prob(trace.nodes["z"]["value"]).sum().backward()
        with_gradient = {name for name, p in vq.named_parameters() if p.grad is not None and (p.grad != 0).any()}
        assert with_gradient and all(name.startswith("model.prior.") for name in with_gradient)
        assert {name for name, _ in vq.codebook.named_parameters()} == set()

    def test_stl_leaves_the_commitment_out(self):
        """As the docstring says: it drops the gradient of log q."""
        vq, data = make(commitment=0.3).eval(), x()
        found, _ = self.gradients(vq, data, ELBO(gradient="stl"))
        vq.guide.commitment = 0.0
        without, _ = self.gradients(vq, data)
        torch.testing.assert_close(found, without, **CLOSE)
