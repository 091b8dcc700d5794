"""The loss of M2 on labelled and unlabelled data together."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine

from pyro_vae import ELBO, M2, anneal_kl
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.objectives.labels import enumerated_bound, label_weights, semi_supervised_loss
from tests.support.labelled_gaussian import CLASSES
from tests.support.m2 import HeavyTailed
from tests.support.programs import IMAGE, check_close, seeded, traced


class TestLoss:
    @pytest.mark.parametrize("alpha", [0.0, 20.0])
    def test_it_is_the_formula(self, alpha, exact):
        """Under the exact posterior the bounds do not depend on the draws."""
        m2 = exact.program(M2)
        log_joint = exact.log_p_given_labels() - math.log(CLASSES)
        rows = torch.arange(5)
        log_q = m2.guide.classifier(exact.x).logits.T[exact.y, rows]
        expected = -(log_joint[exact.y, rows] + alpha * log_q).mean() - enumerated_bound(m2, exact.x[:3]).mean()
        loss = semi_supervised_loss(m2, exact.x, exact.y, exact.x[:3], alpha, kl="sample")
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)

    def test_the_weight_is_that_of_the_latent_in_both_parts(self, m2, x, y):
        """As anneal_kl weighs it where there are labels, and in the label weights where there are none."""
        annealed = anneal_kl(m2.model, m2.guide, 3.0)
        torch.manual_seed(3)
        labelled = ELBO().bound(*annealed, m2.pack(x, y))
        log_w = label_weights(m2, x, kl_weight=3.0)[0]  # the draws that follow
        log_q = m2.guide.classifier(x).logits.T
        expected = -labelled.mean() - (log_q.exp() * (log_w - log_q)).sum(0).mean()
        found = seeded(semi_supervised_loss, m2, x, y, x, 0.0, 3.0, "sample")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)

    def test_the_kl_in_closed_form_takes_the_place_of_its_sample(self, m2, x, y):
        sampled, analytic = (seeded(label_weights, m2, x, 2, 3.0, kl) for kl in ("sample", "analytic"))
        torch.manual_seed(3)
        labels = torch.arange(m2.num_classes)[:, None].expand(-1, len(x))
        with pyro.plate("labels", m2.num_classes, dim=-2), pyro.plate("particles", 2, dim=-3):
            trace = poutine.trace(m2.guide).get_trace(x, labels)
        q, z = trace.nodes["z"]["fn"], trace.nodes["z"]["value"]
        p = m2.model.prior()
        difference = 3 * (p.log_prob(z) - q.log_prob(z) + torch.distributions.kl_divergence(q, p.expand(q.batch_shape)))
        torch.testing.assert_close(sampled - analytic, difference, rtol=0, atol=1e-9)
        with pytest.raises(ValueError, match="^kl: found 'exact', expected one of 'sample', 'analytic'"):
            semi_supervised_loss(m2, x, y, x, 1.0, kl="exact")

    def test_without_a_closed_form_the_kl_is_that_of_the_draws(self, m2, x):
        m2.model.prior = HeavyTailed()
        sampled, analytic = (seeded(enumerated_bound, m2, x, 1, 1.0, kl) for kl in ("sample", "analytic"))
        assert torch.equal(sampled, analytic)

    def test_it_can_be_traced(self, m2, x, y):
        parameters = list(m2.parameters())

        def gradients(packed):
            data, labels = packed[:, :-1].unflatten(1, IMAGE), packed[:4, -1].long()
            loss = semi_supervised_loss(m2, data[:4], labels, data[4:], 10.0)
            return [loss.detach(), *torch.autograd.grad(loss, parameters)]

        compiled = Compiled(gradients, (m2.model, m2.guide), lower=traced)
        with pyro.validation_enabled(False):  # as in training
            for labels in (y, y.flip(0)):  # the second is other data for the same graph
                found, expected = (seeded(run, m2.pack(x, labels)) for run in (compiled, gradients))
                check_close(dict(enumerate(found)), dict(enumerate(expected)), rtol=0, atol=1e-10)
        assert compiled.reason is None and compiled.num_traces == 1

    def test_a_few_labels_name_the_classes_of_many_data(self):
        """Three patterns, one label each: the classifier learns them on the data without labels."""
        torch.manual_seed(0)
        m2 = M2((CLASSES,), CLASSES, 1, (4,))
        labelled, y = torch.eye(CLASSES), torch.tensor([2, 0, 1])
        unlabelled = torch.eye(CLASSES).repeat(10, 1)
        optimizer = torch.optim.Adam(m2.parameters(), lr=0.03)
        for _ in range(100):
            optimizer.zero_grad()
            semi_supervised_loss(m2, labelled, y, unlabelled, 1.0).backward()
            optimizer.step()
        assert torch.equal(m2.classify(unlabelled), y.repeat(10))
        # log p(x) = -log 3 is as good as it gets
        assert enumerated_bound(m2, unlabelled).mean() > -1.6
