"""The objective of M2 for data of which some have a label, held against enumeration by hand, and what is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

import pyro_vae
from pyro_vae import ELBO, M2, VAE, ConditionalVAE, SemiSupervised, anneal_kl, fit
from pyro_vae.compilation import compiled
from pyro_vae.data.batch import Arguments
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.objectives.labels import semi_supervised_loss
from pyro_vae.schedules import Linear
from tests.support.labelled_gaussian import CLASSES
from tests.support.m2 import B, FixedNoise, bounds_by_hand, weights_by_hand
from tests.support.programs import IMAGE, LATENT_DIM, bits, check_close, seeded, traced, weights

SOME = torch.tensor([0, -1, 2, -1, -1, 0])
REFUSED = r"y: found labels of shape \([26],\) .* from -1(\.0)? to [02](\.0)?, expected integers from 0 to 2; "
REFUSED += r"data without a label \(-1\) train M2 by pyro_vae\.SemiSupervised"


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


class TestFit:
    def patterns(self, named=CLASSES):
        """Three patterns, with one label each; the classifier has to learn them on the data without labels."""
        torch.random.default_generator.manual_seed(0)
        m2 = M2((CLASSES,), CLASSES, 1, (4,))
        x, y = torch.eye(CLASSES).repeat(11, 1), torch.full((11 * CLASSES,), -1)
        y[:named] = torch.tensor([2, 0, 1])[:named]
        return m2, x, y

    @pytest.mark.parametrize("weighed", [False, True], ids=["plain", "annealed"])
    def test_a_few_labels_name_the_classes_of_many_data(self, weighed):
        m2, x, y = self.patterns()
        halves = anneal_kl(m2.model, m2.guide, Linear(80, start=3.0, end=1.0)) if weighed else (m2.model, m2.guide)
        history = fit(
            *halves, m2.pack(x, y), objective=SemiSupervised(0.1 * 33 / 3), num_epochs=100, batch_size=33, lr=0.03,
            seed=0, progress=False, valid=m2.pack(x, y),
        )  # fmt: skip
        assert torch.equal(m2.classify(x), y[:3].repeat(11))
        last = history.records[-1]
        # log p(x) and log p(x, y) are -log 3 at best
        assert -1.6 < last["valid_bound"] < -math.log(3) and last["train_loss"] > -last["train_bound"]
        if not weighed:  # the term with alpha
            assert last["valid_loss"] > -last["valid_bound"]
        torch.testing.assert_close(
            mean_bound(*halves, m2.pack(x, y), SemiSupervised(9.0), seed=0), last["valid_bound"], rtol=0, atol=1e-3
        )

    def test_compiled_it_takes_the_same_path(self, monkeypatch):
        monkeypatch.setattr(compiled, "inductor", traced)
        runs = []
        for compile in (False, True):
            m2, x, y = self.patterns()
            m2.double()
            history = fit(
                m2.model, m2.guide, m2.pack(x.double(), y), objective=SemiSupervised(1.0), num_epochs=3, batch_size=11,
                lr=0.03, seed=0, progress=False, compile=compile,
            )  # fmt: skip
            assert history.fallback is None
            runs.append({**weights(m2), "bound": torch.tensor(history.records[-1]["train_bound"])})
        check_close(*runs, rtol=0, atol=1e-9)

    def test_labelled_data_are_compiled_under_other_objectives(self, monkeypatch):
        """What holds labels against the classes reads values, and stays out of the graph."""
        monkeypatch.setattr(compiled, "inductor", traced)
        cvae = ConditionalVAE((4,), 3, 2, (5,))
        packed = cvae.pack(bits(24).flatten(1)[:, :4], torch.arange(24) % 3)
        history = fit(cvae.model, cvae.guide, packed, num_epochs=1, batch_size=6, progress=False, compile=True)
        assert history.fallback is None

    def test_svi_trains_every_part(self, m2, x):
        before = weights(m2)
        svi = SVI(m2.model, m2.guide, pyro.optim.Adam({"lr": 0.01}), loss=SemiSupervised(1.0))
        svi.step(m2.pack(x, SOME))
        after = weights(m2)
        assert all(not torch.equal(before[f"0.{name}"], after[f"0.{name}"]) for name, _ in m2.named_parameters())

    def test_a_bound_that_is_not_finite_is_traced_to_its_site(self, m2, x):
        with pytest.raises(FloatingPointError, match="the first value not finite is the log-probability of site 'z'"):
            fit(
                m2.model, m2.guide, m2.pack(x, SOME), objective=SemiSupervised(1.0), num_epochs=1, batch_size=3,
                lr=1e300, progress=False,
            )  # fmt: skip

    def test_a_last_batch_of_one_is_refused_as_ever(self, x):
        m2 = M2(IMAGE, CLASSES, LATENT_DIM, classifier=WithBatchNorm())
        data, options = m2.pack(x.float(), SOME), {"objective": SemiSupervised(1.0), "num_epochs": 1, "progress": False}
        with pytest.raises(ValueError, match="^batch_size: found one that leaves a last batch of one of 6 data"):
            fit(m2.model, m2.guide, data, batch_size=5, **options)
        assert len(fit(m2.model, m2.guide, data, batch_size=3, **options).records) == 1


class WithBatchNorm(nn.Module):
    """A classifier with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.norm, self.output = nn.BatchNorm1d(16), nn.Linear(16, CLASSES)

    def forward(self, x):
        return dist.Categorical(logits=self.output(self.norm(x.flatten(1))))


class TestPacked:
    def test_no_label_is_packed_for_m2_alone(self, m2, x):
        packed = m2.pack(x, SOME)
        assert torch.equal(packed[:, -1].long(), SOME)
        with pytest.raises(ValueError, match=r"from -2 to 2, expected integers from 0 to 2, or -1 for no label"):
            m2.pack(x, SOME.where(SOME >= 0, -2))
        cvae = ConditionalVAE(IMAGE, CLASSES, LATENT_DIM, (5,))
        with pytest.raises(ValueError, match=r"from -1 to 2, expected integers from 0 to 2$"):
            cvae.pack(x, SOME)

    def test_what_has_no_label_is_classified(self, m2, x):
        completed = m2.pack(x, torch.where(SOME >= 0, SOME, m2.classify(x)))
        assert torch.equal(m2.encode(m2.pack(x, SOME)), m2.encode(completed))
        assert torch.equal(m2.reconstruct(m2.pack(x, SOME)), m2.reconstruct(completed))
        assert not torch.equal(m2.encode(m2.pack(x, SOME)), m2.encode(x))  # the known labels are kept


class TestRefused:
    def test_by_the_programs_and_other_objectives(self, m2, x):
        packed = m2.pack(x, SOME)
        for half in (m2.model, m2.guide):
            for arguments in ((x, SOME), (packed,)):
                with pytest.raises(ValueError, match=f"^{REFUSED}"):
                    half(*arguments)
        for call in (
            lambda: ELBO().bound(m2.model, m2.guide, packed),
            lambda: SVI(m2.model, m2.guide, pyro.optim.Adam({}), loss=ELBO()).step(packed),
            lambda: pyro_vae.log_likelihood(m2.model, m2.guide, packed, 2),
            lambda: pyro_vae.log_weights(m2.model, m2.guide, packed),
            lambda: pyro_vae.diagnose(m2.model, m2.guide, packed),
            lambda: fit(m2.model, m2.guide, packed, progress=False, batch_size=6),
        ):
            with pytest.raises(ValueError, match=REFUSED):
                call()

    @pytest.mark.parametrize("wrong", [-2, 3, 0.5, math.nan])
    def test_labels_that_are_none(self, wrong, m2, x):
        packed = m2.pack(x, SOME)
        packed[1, -1] = wrong
        objective = SemiSupervised(1.0)
        message = "expected (integers from -1 to 2|finite numbers)"
        with pytest.raises(ValueError, match=message):
            objective.bound(m2.model, m2.guide, packed)
        with pytest.raises(ValueError, match=message):
            fit(m2.model, m2.guide, packed, objective=objective, batch_size=6, progress=False)

    def test_labels_of_another_shape(self, m2, x):
        with pytest.raises(ValueError, match=r"^y: found labels of shape \(6, 1\), expected one for each of 6 data"):
            SemiSupervised(1.0).estimate(m2.model, m2.guide, x, SOME[:, None])

    def test_other_programs(self, m2, x):
        vae, cvae = VAE(IMAGE, 2, (5,)), ConditionalVAE(IMAGE, CLASSES, 2, (5,))
        objective = SemiSupervised(1.0)
        message = "^model, guide: found .*, expected the model and the guide of a pyro_vae.M2"
        for halves in (
            (vae.model, vae.guide),
            (cvae.model, m2.guide),
            (m2.model, cvae.guide),
            (m2.guide, m2.model),
            (lambda x: None, lambda x: None),
        ):
            with pytest.raises(pyro_vae.ProgramError, match=message):
                objective.bound(*halves, x)
        with pytest.raises(pyro_vae.ProgramError, match=message):
            fit(vae.model, vae.guide, x.float(), objective=objective, batch_size=6, progress=False)

    def test_a_latent_without_a_path(self, m2, x):
        m2.guide.posterior = Stepped(m2.guide.posterior)
        with pytest.raises(pyro_vae.ProgramError, match="^site 'z': found a latent that cannot be reparameterised"):
            SemiSupervised(1.0).bound(m2.model, m2.guide, m2.pack(x, SOME))

    @pytest.mark.parametrize("alpha", [-1.0, math.inf, "much", None])
    def test_weights_that_are_none(self, alpha):
        with pytest.raises((ValueError, TypeError), match="^alpha: found .*, expected a finite number, 0 or more"):
            SemiSupervised(alpha)

    def test_it_says_what_it_is(self):
        assert repr(SemiSupervised(0.5, 2)) == "SemiSupervised(alpha=0.5, kl='analytic', num_particles=2)"


class Stepped(nn.Module):
    """A posterior whose draws have no gradient."""

    class Normal(dist.Normal):
        has_rsample = False

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self, x, y):
        q = self.posterior(x, y)
        return self.Normal(q.mean, q.base_dist.scale).to_event(1)
