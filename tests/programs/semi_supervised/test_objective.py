"""The objective of M2 for data of which some have a label, held against enumeration by hand, and what is refused."""

from __future__ import annotations

import math

import pyro
import pytest
import torch

from pyro_vae import M2, SemiSupervised, anneal_kl
from pyro_vae.compilation import compiled
from pyro_vae.data.batch import Arguments
from pyro_vae.objectives.labels import semi_supervised_loss
from tests.support.labelled_gaussian import CLASSES
from tests.support.m2 import SOME, B, FixedNoise, bounds_by_hand, weights_by_hand
from tests.support.programs import check_close, seeded, traced


@pytest.fixture
def fixed(m2):
    m2.guide.posterior = FixedNoise(m2.guide.posterior)
    return m2


def of(m2, loss):
    """The gradient of every parameter, by name."""
    names = [name for name, _ in m2.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(m2.parameters()), allow_unused=True), strict=True))


class TestValue:
    @pytest.mark.parametrize("y", [SOME, SOME.clamp(min=0), torch.full((B,), -1)], ids=["some", "all", "none"])
    @pytest.mark.parametrize("kl", ["sample", "analytic"])
    def test_loss_and_gradient_are_those_of_enumeration_by_hand(self, fixed, x, y, kl):
        bounds, log_q = bounds_by_hand(fixed, x, y, analytic=kl == "analytic")
        estimate = SemiSupervised(4.0, kl=kl).estimate(fixed.model, fixed.guide, fixed.pack(x, y))
        torch.testing.assert_close(estimate.true_bound, bounds, rtol=0, atol=1e-10)
        torch.testing.assert_close(estimate.bound, bounds + 4.0 * log_q, rtol=0, atol=1e-10)
        expected = -(bounds + 4.0 * log_q).sum()
        torch.testing.assert_close(estimate.loss, expected, rtol=0, atol=1e-10)
        check_close(of(fixed, estimate.loss), of(fixed, expected), rtol=0, atol=1e-10)

    def test_over_all_data_it_is_that_of_the_paper(self, fixed, x):
        """J of equation 9, with α = 0.1 N times the mean of -log q over the labels."""
        bounds, log_q = bounds_by_hand(fixed, x, SOME, analytic=True)
        num_labels = 3
        paper = -bounds.sum() + 0.1 * B * -(log_q.sum() / num_labels)
        objective = SemiSupervised(alpha=0.1 * B / num_labels)
        batches = [fixed.pack(x[rows], SOME[rows]) for rows in (slice(2), slice(2, 6))]
        total = sum(objective.differentiable_loss(fixed.model, fixed.guide, batch) for batch in batches)
        torch.testing.assert_close(total, paper, rtol=0, atol=1e-10)

    def test_it_is_the_loss_of_two_batches_of_one_size(self, fixed, x, y):
        """Which is the mean of one plus the mean of the other, where here it is the sum of all."""
        other = 1 - x
        expected = semi_supervised_loss(fixed, x, y, other, alpha=4.0)
        both = fixed.pack(torch.cat([x, other]), torch.cat([y, torch.full((B,), -1)]))
        found = SemiSupervised(4.0).differentiable_loss(fixed.model, fixed.guide, both) / B
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        check_close(of(fixed, found), of(fixed, expected), rtol=0, atol=1e-10)

    def test_it_is_the_mean_over_the_particles(self, m2, x):
        log_w = weights_by_hand(m2, x, 4).mean(0)  # (C, B)
        q = m2.guide.classifier(x).probs.T
        expected = torch.where(SOME >= 0, log_w[SOME, torch.arange(B)], (q * (log_w - q.log())).sum(0))
        objective = SemiSupervised(0.0, num_particles=4, kl="sample")
        found = seeded(objective.bound, m2.model, m2.guide, m2.pack(x, SOME))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)

    def test_in_closed_form(self, exact):
        """Under the exact posterior: log p(x, y) with a label, and log p(x) less a divergence without one."""
        m2 = exact.program(M2)
        log_joint = exact.log_p_given_labels() - math.log(CLASSES)
        log_q = m2.guide.classifier(exact.x).logits.T
        divergence = (log_q.exp() * (log_q - log_joint.log_softmax(0))).sum(0)
        y = torch.tensor([1, -1, 0, -1, 2])
        expected = torch.where(y >= 0, log_joint[y, torch.arange(5)], log_joint.logsumexp(0) - divergence)
        estimate = SemiSupervised(7.0, kl="sample").estimate(m2.model, m2.guide, m2.pack(exact.x, y))
        torch.testing.assert_close(estimate.true_bound, expected, rtol=0, atol=1e-10)

    def test_annealing_weighs_the_kl_of_z_alone_and_leaves_the_true_bound(self, fixed, x):
        annealed = anneal_kl(fixed.model, fixed.guide, torch.tensor(3.0))
        for kl in ("sample", "analytic"):
            weighed, log_q = bounds_by_hand(fixed, x, SOME, beta=3.0, analytic=kl == "analytic")
            true, _ = bounds_by_hand(fixed, x, SOME, analytic=kl == "analytic")
            estimate = SemiSupervised(4.0, kl=kl).estimate(*annealed, fixed.pack(x, SOME))
            torch.testing.assert_close(estimate.bound, weighed + 4.0 * log_q, rtol=0, atol=1e-10)
            torch.testing.assert_close(estimate.true_bound, true, rtol=0, atol=1e-10)

    def test_a_scale_multiplies_the_loss_and_a_mask_leaves_data_out(self, fixed, x):
        seen = torch.tensor([1, 0, 0, 1, 1, 1]).bool()  # left out is one without a label, and one with
        halves = [pyro.poutine.scale(pyro.poutine.mask(half, seen), 5.0) for half in (fixed.model, fixed.guide)]
        for kl in ("sample", "analytic"):
            bounds, log_q = bounds_by_hand(fixed, x, SOME, analytic=kl == "analytic")
            expected = torch.where(seen, bounds + 2.0 * log_q, 0.0)
            estimate = SemiSupervised(2.0, kl=kl).estimate(*halves, fixed.pack(x, SOME))
            torch.testing.assert_close(estimate.bound, expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(estimate.loss, -5 * expected.sum(), rtol=0, atol=1e-10)


class TestBatch:
    def test_packed_data_and_two_arguments_are_the_same(self, m2, x):
        objective = SemiSupervised(2.0)
        packed = seeded(objective.estimate, m2.model, m2.guide, m2.pack(x, SOME))
        for batch in (Arguments(x, SOME), Arguments(x, y=SOME), Arguments(y=SOME.to(torch.int32), x=x)):
            for found, expected in zip(seeded(objective.estimate, m2.model, m2.guide, batch), packed, strict=True):
                if found is not None:
                    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            seeded(objective.estimate, m2.model, m2.guide, x, SOME).loss, packed.loss, rtol=0, atol=1e-12
        )

    def test_data_alone_have_no_label(self, m2, x):
        objective = SemiSupervised(2.0)
        packed = m2.pack(x, torch.full((B,), -1))
        found, expected = (seeded(objective.bound, m2.model, m2.guide, data) for data in (x, packed))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    def test_the_graph_does_not_depend_on_which_data_have_labels(self, m2, x):
        objective, parameters = SemiSupervised(3.0), list(m2.parameters())

        def gradients(packed):
            loss = objective.differentiable_loss(m2.model, m2.guide, packed)
            return [loss.detach(), *torch.autograd.grad(loss, parameters)]

        run = compiled.Compiled(gradients, (m2.model, m2.guide, objective), lower=traced)
        with pyro.validation_enabled(False):  # as in training
            for labels in (SOME, SOME.flip(0), torch.zeros(B), torch.full((B,), -1)):
                found, expected = (seeded(each, m2.pack(x, labels)) for each in (run, gradients))
                check_close(dict(enumerate(found)), dict(enumerate(expected)), rtol=0, atol=1e-10)
        assert run.reason is None and run.num_traces == 1
