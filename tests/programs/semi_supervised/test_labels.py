"""M2: the label summed out against sums by hand, closed forms and Pyro's own enumeration; what labelled data add."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate

import pyro_vae
from pyro_vae import ELBO, M2, ConditionalVAE
from pyro_vae.objectives.labels import enumerated_bound, label_weights, summed_bound
from tests.support.labelled_gaussian import CLASSES
from tests.support.m2 import B, weights_by_hand
from tests.support.programs import IMAGE, seeded


class TestLabelWeights:
    @pytest.mark.parametrize(("num_particles", "kl_weight"), [(1, 1.0), (4, 1.0), (4, torch.tensor(3.0))])
    def test_they_are_the_formula_label_by_label(self, num_particles, kl_weight, m2, x):
        found = seeded(label_weights, m2, x, num_particles, kl_weight)
        assert found.shape == (num_particles, CLASSES, B)
        torch.testing.assert_close(found, weights_by_hand(m2, x, num_particles, kl_weight), rtol=0, atol=1e-10)

    def test_under_the_exact_posterior_they_are_log_p_of_x_and_y(self, exact):
        expected = exact.log_p_given_labels() - math.log(CLASSES)
        found = label_weights(exact.program(M2), exact.x, 2)
        torch.testing.assert_close(found, expected.expand(2, -1, -1), rtol=0, atol=1e-10)

    def test_the_encoder_sees_each_datum_once(self, m2, x):
        rows = []
        m2.guide.posterior.network.from_x.register_forward_hook(lambda _, inputs, output: rows.append(inputs[0].shape))
        label_weights(m2, x, 4)
        assert rows == [(B, *IMAGE)]


class TestUnlabelled:
    def test_the_bound_is_the_sum_over_labels_by_hand(self, m2, x):
        q = m2.guide.classifier(x).probs.T  # (C, B)
        expected = (q * (weights_by_hand(m2, x)[0] - q.log())).sum(0)
        torch.testing.assert_close(seeded(enumerated_bound, m2, x), expected, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("mark", [lambda guide: guide, config_enumerate], ids=["as it is", "config_enumerate"])
    def test_it_is_pyros(self, mark, m2, x):
        loss = seeded(TraceEnum_ELBO(max_plate_nesting=1).loss, m2.model, mark(m2.guide), x)
        assert loss == pytest.approx(-seeded(enumerated_bound, m2, x).sum().item(), abs=1e-10)

    def test_its_gradient_is_pyros_and_reaches_every_parameter(self, m2, x):
        loss = seeded(TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss, m2.model, m2.guide, x)
        expected = torch.autograd.grad(loss, list(m2.parameters()))
        found = torch.autograd.grad(-seeded(enumerated_bound, m2, x).sum(), list(m2.parameters()))
        for gradient, other in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=0, atol=1e-10)
            assert (gradient != 0).any()

    def test_svi_trains_it(self, m2, x):
        before = [parameter.clone() for parameter in m2.parameters()]
        svi = SVI(m2.model, m2.guide, pyro.optim.Adam({"lr": 0.01}), loss=TraceEnum_ELBO(max_plate_nesting=1))
        svi.step(x)
        assert not any(torch.equal(p, q) for p, q in zip(m2.parameters(), before, strict=True))

    def test_in_closed_form(self, exact):
        m2 = exact.program(M2)
        log_joint = exact.log_p_given_labels() - math.log(CLASSES)
        log_q = m2.guide.classifier(exact.x).logits.T
        divergence = (log_q.exp() * (log_q - log_joint.log_softmax(0))).sum(0)  # KL(q(y|x) || p(y|x))
        expected = log_joint.logsumexp(0) - divergence
        assert divergence.min() > 0.01
        torch.testing.assert_close(enumerated_bound(m2, exact.x, 3), expected, rtol=0, atol=1e-10)

    def test_drawn_labels_estimate_log_p_too(self, exact):
        m2 = exact.program(M2)
        torch.nn.init.zeros_(m2.guide.classifier.network.output.weight)  # all labels alike
        expected = exact.log_p_given_labels().logsumexp(0) - math.log(CLASSES)
        estimate = pyro_vae.log_likelihood(m2.model, m2.guide, exact.x, 10_000, seed=0)
        # 4.5 standard errors for each of five data: a false alarm in 29,000 choices of the seed
        assert ((estimate.values - expected).abs() < 4.5 * estimate.std_error).all()
        assert estimate.std_error.max() < 0.05


class TestSummed:
    def test_it_is_the_formula(self, m2, x):
        w = weights_by_hand(m2, x, 4).exp()  # (K, C, B)
        torch.testing.assert_close(seeded(summed_bound, m2, x, 4), w.sum(1).mean(0).log(), rtol=0, atol=1e-10)

    def test_under_the_exact_posterior_it_is_log_p(self, exact):
        expected = exact.log_p_given_labels().logsumexp(0) - math.log(CLASSES)
        for num_particles in (1, 5):
            found = summed_bound(exact.program(M2), exact.x, num_particles)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)

    def test_on_the_same_draws_it_is_above_the_enumerated_bound(self, m2, x):
        for seed in range(20):
            torch.manual_seed(seed)
            enumerated = enumerated_bound(m2, x)
            torch.manual_seed(seed)
            assert (summed_bound(m2, x) > enumerated).all()

    def test_its_mean_is_below_log_p_and_rises_with_the_particles(self, exact):
        m2, repeats = exact.program(M2, off=0.4), 20_000
        log_p = (exact.log_p_given_labels().logsumexp(0) - math.log(CLASSES))[0]
        x = exact.x[:1].expand(repeats, -1)
        torch.manual_seed(0)
        with torch.no_grad():
            one, ten, enumerated = summed_bound(m2, x), summed_bound(m2, x, 10), enumerated_bound(m2, x)
        means = torch.stack([part.mean() for part in (enumerated, one, ten, log_p)])
        errors = torch.stack([part.std() / repeats**0.5 for part in (enumerated, one, ten)])
        # gaps of ten standard errors or more: no seed reverses the order, and it would if one bound were another
        assert (means.diff() > 10 * errors).all()
        ratio = (one - log_p).exp()  # without bias before the logarithm; 4.5 standard errors, a false alarm in 150,000
        assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / repeats**0.5


class TestLabelled:
    def test_the_bound_is_the_supervised_one(self, m2, x, y):
        """log p(y) and, on the same draws, the bound of the conditional VAE of the same parts."""
        parts = {"prior": m2.model.prior, "likelihood": m2.likelihood, "posterior": m2.guide.posterior}
        cvae = ConditionalVAE(IMAGE, CLASSES, **parts)
        given = seeded(ELBO().bound, cvae.model, cvae.guide, cvae.pack(x, y))
        expected = given - math.log(CLASSES)
        found = seeded(ELBO().bound, m2.model, m2.guide, m2.pack(x, y))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        pyros = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
        assert seeded(pyros.loss, m2.model, m2.guide, x, y) == pytest.approx(-expected.sum().item(), abs=1e-10)

    def test_under_the_exact_posterior_it_is_log_p_of_x_and_y(self, exact):
        m2 = exact.program(M2)
        log_joint = exact.log_p_given_labels() - math.log(CLASSES)
        found = ELBO().bound(m2.model, m2.guide, m2.pack(exact.x, exact.y))
        torch.testing.assert_close(found, log_joint[exact.y, torch.arange(5)], rtol=0, atol=1e-10)
