"""M2: the label summed out against sums by hand, closed forms and Pyro's own enumeration; what labelled data add."""

from __future__ import annotations

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from torch import nn

import pyro_vae
from pyro_vae import ELBO, M2, MLP, ConditionalVAE, anneal_kl
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.objectives.labels import enumerated_bound, label_weights, semi_supervised_loss, summed_bound
from pyro_vae.programs.semi_supervised import Classifier
from tests.support.labelled_gaussian import CLASSES, LabelledPPCA
from tests.support.programs import IMAGE, LATENT_DIM, bits, check_close, seeded, traced

B = 6


@pytest.fixture
def m2():
    torch.manual_seed(1)
    return M2(IMAGE, CLASSES, LATENT_DIM, (5,)).double()


@pytest.fixture
def x():
    return bits(B).double()


@pytest.fixture
def y():
    return torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.fixture(scope="module")
def exact():
    return LabelledPPCA()


def weights_by_hand(m2, x, num_particles=1, kl_weight=1.0):
    """log p(x, y, z) - log q(z|x, y), ``(K, C, B)``, label by label, on the draws that a run of seed 3 makes."""
    torch.manual_seed(3)
    noise = torch.randn(num_particles, CLASSES, len(x), m2.model.prior.latent_dim, dtype=x.dtype)
    columns = []
    for label in range(CLASSES):
        code = torch.zeros(len(x), CLASSES, dtype=x.dtype)
        code[:, label] = 1
        q = m2.guide.posterior(x, code)
        z = q.mean + q.base_dist.scale * noise[:, label]  # (K, B, L)
        log_p = m2.likelihood(torch.cat([z, code.expand(num_particles, -1, -1)], -1)).log_prob(x)
        ratio = m2.model.prior().log_prob(z) - q.log_prob(z)
        columns.append(log_p - math.log(CLASSES) + kl_weight * ratio)
    return torch.stack(columns, 1)


class HeavyTailed(nn.Module):
    """A prior whose KL from a Gaussian torch does not know."""

    def forward(self):
        return dist.StudentT(3.0, torch.zeros(LATENT_DIM, dtype=torch.float64), 1.0).to_event(1)


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


class TestProgram:
    def test_what_is_not_labelled_is_classified(self, m2, x):
        labels = m2.guide.classifier(x).logits.argmax(-1)
        assert torch.equal(m2.classify(x), labels) and len(labels.unique()) > 1
        packed = m2.pack(x, labels)
        torch.testing.assert_close(m2.encode(x), m2.encode(packed), rtol=0, atol=0)
        torch.testing.assert_close(m2.reconstruct(x), m2.reconstruct(packed), rtol=0, atol=0)
        assert not torch.equal(m2.encode(m2.pack(x, (labels + 1) % CLASSES)), m2.encode(packed))

    def test_draws_of_a_class(self, exact):
        m2 = exact.program(M2)
        with torch.no_grad():
            m2.likelihood.network.output.weight[:, :2] = 0  # the class is then all there is
        torch.testing.assert_close(m2.sample(2, y=[1, 0], mean=True), exact.means[[1, 0]], rtol=0, atol=1e-12)

    def test_it_is_saved_and_loaded(self, m2, x, tmp_path):
        pyro_vae.save(m2, tmp_path)
        loaded = pyro_vae.load(tmp_path)
        assert isinstance(loaded, M2)
        assert torch.equal(seeded(enumerated_bound, m2, x), seeded(enumerated_bound, loaded, x))

    def test_a_classifier_of_ones_own(self, x):
        classifier = Classifier(MLP(IMAGE, CLASSES, ()))
        m2 = M2(IMAGE, CLASSES, LATENT_DIM, (5,), classifier=classifier)
        assert m2.guide.classifier is classifier and m2.recipe["arguments"]["classifier"] == classifier.recipe
        with pytest.raises(TypeError, match="^classifier: found int, expected a module whose forward is a"):
            M2(IMAGE, CLASSES, LATENT_DIM, classifier=3)

    def test_devices_and_types(self, device):
        m2 = M2(IMAGE, CLASSES, LATENT_DIM, (5,)).to(device)
        x = bits(B).to(device)
        for bound in (functools.partial(enumerated_bound, m2), functools.partial(summed_bound, m2, num_particles=3)):
            assert (bound(x).shape, bound(x).dtype, bound(x).device.type) == ((B,), torch.float32, device.type)
        assert m2.classify(x).device.type == device.type

    def test_nothing_is_left_in_the_parameter_store(self, m2, x, y):
        semi_supervised_loss(m2, x, y, x, 1.0).backward()
        summed_bound(m2, x, 2)
        assert list(pyro.get_param_store().keys()) == []

    def test_data_of_another_shape_are_refused(self, m2, x):
        with pytest.raises(ValueError, match=r"^x: found the shape \(6, 16\), expected \(B, 4, 4\)"):
            label_weights(m2, x.flatten(1))
        with pytest.raises(ValueError, match="^num_particles: found 0, expected a positive integer"):
            label_weights(m2, x, 0)
