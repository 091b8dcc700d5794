"""Pyro's tutorials one by one: what is special to each is held to formulas by hand, or refused in one sentence."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import nn

from pyro_vae import ELBO, IWAE, ProgramError, anneal_kl, log_likelihood
from pyro_vae import log_weights as weigh
from tests.support.tutorial_runs import Tutorial, by_hand, draws, exactly, seeded
from tests.support.tutorials import CLASSES, PIXELS, reverse

pytestmark = pytest.mark.usefixtures("double")


class TestSemiSupervised:
    def test_the_scale_in_the_program_multiplies_the_loss_alone(self):
        m2 = Tutorial("M2")
        for run, factor in ((weigh, 1.0), (IWAE(2).bound, 1.0), (IWAE(2).differentiable_loss, 0.1)):
            m2.module.scale = 1.0
            expected = seeded(run, m2.model, m2.guide, m2.x)
            m2.module.scale = 0.1
            exactly(seeded(run, m2.model, m2.guide, m2.x), factor * expected)

    @pytest.mark.parametrize("objective", [ELBO(2), IWAE(2)], ids=repr)
    def test_the_gradient_of_the_classifier_against_enumeration(self, objective):
        """A datum is a replicate with logits q(y|x) of its own, so that each has a gradient; its mean is held to the
        sum over all pairs of labels, and the ELBO's to TraceEnum_ELBO. 5 standard errors: a chance of 6e-7 for each of
        at most 6 numbers. The other bound's gradient is as far off as can be seen, 6 standard errors or more."""
        n, m2 = 50_000, Tutorial("M2")
        module, x = m2.module, m2.x[:1].expand(n, PIXELS)
        effects = torch.linspace(-2.0, 3.0, CLASSES * PIXELS).reshape(CLASSES, PIXELS)
        module.decoder.forward = lambda zs, ys: 0.3 * zs[..., :1] + ys @ effects  # labels matter, so the bounds differ
        logits = nn.Parameter(torch.tensor([0.8, -0.4, 0.1]).repeat(n, 1))
        module.encoder_y.forward = lambda xs: logits
        found = torch.autograd.grad(objective.bound(module.model, module.guide, x).sum(), logits)[0]

        y = torch.eye(CLASSES)[:, None]  # (C, 1, C)
        with torch.no_grad():
            z = torch.distributions.Normal(*module.encoder_z(x, y)).sample((2,))  # (2, C, B, L)
        log_x, log_p, log_q = module.by_hand({"z": z, "y": y}, x)
        log_w, q = log_x + log_p - log_q, logits.softmax(-1).T  # (2, C, B), (C, B)
        expected, pairs = {}, [(i, j) for i in range(CLASSES) for j in range(CLASSES)]
        for bound in (ELBO(2), IWAE(2)):
            mean = sum(q[i] * q[j] * bound.reduce(torch.stack([log_w[0, i], log_w[1, j]])) for i, j in pairs)
            expected[type(bound)] = torch.autograd.grad(mean.sum(), logits, retain_graph=True)[0]
        pyros = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(module.model, config_enumerate(module.guide), x)
        expected[TraceEnum_ELBO] = -torch.autograd.grad(pyros, logits)[0]
        for kind, other in expected.items():
            distance = (found.mean(0) - other.mean(0)).abs() / ((found.var(0) + other.var(0)) / n).sqrt()
            same = (kind is IWAE) == isinstance(objective, IWAE)
            assert (distance < 5).all() if same else distance.max() > 6, (kind, distance)

    def test_log_likelihood_against_quadrature_and_the_sum_over_labels(self):
        """A Gauss-Hermite rule for z, exact to many digits; 5 standard errors, a chance of 6e-7 for each of 6 data."""
        m2 = Tutorial("M2")
        nodes, weights = (torch.tensor(values) for values in np.polynomial.hermite_e.hermegauss(40))
        z = torch.cartesian_prod(nodes, nodes)[:, None, None]  # (Q, 1, 1, 2)
        log_weight = torch.cartesian_prod(weights, weights).log().sum(-1) - np.log(2 * np.pi)
        log_x = m2.module.by_hand({"z": z, "y": torch.eye(CLASSES)[:, None]}, m2.x)[0]  # (Q, C, B)
        exact = (log_x + log_weight[:, None, None] - np.log(CLASSES)).logsumexp((0, 1))
        found = log_likelihood(m2.model, m2.guide, m2.x, 4000, seed=0)
        assert ((found.values - exact).abs() < 5 * found.std_error).all() and found.std_error.max() < 0.05

    def test_a_label_marked_for_enumeration(self):
        """In the guide it is drawn as ever; left to the model alone it is refused."""
        m2 = Tutorial("M2")
        expected = seeded(weigh, m2.model, m2.guide, m2.x, 4)
        exactly(seeded(weigh, m2.model, config_enumerate(m2.guide), m2.x, 4), expected)
        message = r"^site 'y': found in the model, but the guide has the latent sites \['z'\]; expected the same"
        for run in (weigh, IWAE(4).bound, log_likelihood):
            with pytest.raises(ProgramError, match=message):
                run(config_enumerate(m2.model), lambda xs: m2.guide(xs, xs.new_ones(len(xs), CLASSES)), m2.x)

    def test_the_auxiliary_loss_is_a_pair_without_latents(self):
        m2 = Tutorial("M2 labelled")
        pair = partial(m2.module.model_classify, ys=m2.args[1]), lambda xs: None
        log_y = m2.args[1] * m2.module.encoder_y(m2.x).log_softmax(-1)
        exactly(ELBO().differentiable_loss(*pair, m2.x), -50 * log_y.sum())


class TestConditional:
    def test_the_tutorials_indexing_takes_one_particle(self):
        """A mask of two dimensions leaves none for particles, in Pyro neither; without the output there is no data."""
        cvae = Tutorial("CVAE")
        expected = seeded(weigh, cvae.model, cvae.guide, cvae.x)
        cvae.module.hidden = lambda probs, xs: probs[xs == -1].view(len(xs), -1)
        exactly(seeded(weigh, cvae.model, cvae.guide, cvae.x), expected)
        in_a_plate = IWAE(4, vectorize_particles=True).bound
        for run in (Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=1).loss, in_a_plate):
            with pytest.raises(IndexError, match="mask"):
                run(cvae.model, cvae.guide, cvae.x)
        with pytest.warns(UserWarning, match="take no dimension of particles .*mask.* are drawn one after the other"):
            found = seeded(IWAE(4).bound, cvae.model, cvae.guide, cvae.x)
        alone = seeded(lambda: torch.cat([weigh(cvae.model, cvae.guide, cvae.x) for _ in range(4)]))
        exactly(found, alone.logsumexp(0) - math.log(4))
        with pytest.raises(ProgramError, match="^found no observed site in the model, expected one such as"):
            weigh(cvae.module.model, cvae.module.guide, cvae.args[0])


class TestDeepMarkov:
    def test_its_own_annealing_weighs_the_bound_and_not_the_weights(self):
        dmm = Tutorial("DMM")
        half = [partial(program, annealing_factor=0.5) for program in (dmm.model, dmm.guide)]
        both = [poutine.scale(program, scale=3.0) for program in half]  # a scale of the whole is no annealing
        for run in (half, both, anneal_kl(dmm.model, dmm.guide, 0.5)):
            exactly(seeded(weigh, *run, dmm.x, 4), seeded(weigh, dmm.model, dmm.guide, dmm.x, 4))
            exactly(seeded(ELBO(4).bound, *run, dmm.x), by_hand(dmm, draws(dmm.guide, dmm.x), 0.5).mean(0))

    def test_padding_does_not_count(self):
        dmm = Tutorial("DMM")
        other = torch.where(dmm.args[2][..., None], dmm.x, 1 - dmm.x)
        assert not torch.equal(other, dmm.x) and torch.equal(reverse(other, dmm.args[3]), dmm.args[1])
        exactly(seeded(weigh, dmm.model, dmm.guide, other, 4), seeded(weigh, dmm.model, dmm.guide, dmm.x, 4))


@pytest.mark.parametrize("num_particles", [1, 4])
def test_a_plate_without_a_size(num_particles):
    """As M2 and the CVAE open theirs: Pyro does not know how many data it holds, so each must have its own draw."""

    def model(x, **size):
        with pyro.plate("data", **size):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x, shape, **size):
        with pyro.plate("data", **size):
            pyro.sample("z", dist.Normal(torch.zeros(shape), 1.0))

    x = torch.arange(6.0)
    unsized = seeded(weigh, model, partial(guide, shape=6), x, num_particles)
    exactly(unsized, seeded(weigh, partial(model, size=6), partial(guide, shape=6, size=6), x, num_particles))
    with pytest.raises(ProgramError, match="^site 'z': found .* in a data plate without a size .* for each of 6 data"):
        weigh(model, partial(guide, shape=()), x, num_particles)


@pytest.mark.parametrize("call", ["step", "evaluate_loss", "differentiable_loss"])
def test_a_second_argument_is_passed_on(call):
    """By position and by name, with the loss of programs whose second argument was filled in beforehand."""
    m2 = Tutorial("M2 labelled")
    module, labels = m2.module, m2.args[1]
    if call == "differentiable_loss":
        run, bound_first = IWAE(4)(module.model, module.guide), IWAE(4)(m2.model, m2.guide)
    else:
        run, bound_first = (
            getattr(SVI(*programs, pyro.optim.Adam({"lr": 0.0}), loss=IWAE(4)), call)
            for programs in ((module.model, module.guide), (m2.model, m2.guide))
        )
    expected = torch.as_tensor(seeded(bound_first, m2.x))
    exactly(torch.as_tensor(seeded(run, m2.x, labels)), expected)
    exactly(torch.as_tensor(seeded(run, m2.x, ys=labels)), expected)
