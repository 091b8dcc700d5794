"""The conditional VAE: log p(x|y), by hand and in closed form, given apart and packed; draws of a class."""

from __future__ import annotations

import functools
import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vae
from pyro_vae import ELBO, IWAE, MLP, ConditionalVAE, Gaussian, anneal_kl
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from tests.support.labelled_gaussian import CLASSES, LabelledPPCA
from tests.support.programs import IMAGE, LATENT_DIM, bits, check_close, seeded, traced

B = 6


@pytest.fixture
def cvae():
    torch.manual_seed(1)
    return ConditionalVAE(IMAGE, CLASSES, LATENT_DIM, (5,)).double()


@pytest.fixture
def x():
    return bits(B).double()


@pytest.fixture
def y():
    return torch.tensor([0, 1, 2, 2, 1, 0])


def ones(y):
    """The labels as ones and zeros."""
    return (y[..., None] == torch.arange(CLASSES)).double()


class TestBound:
    @pytest.mark.parametrize("num_particles", [1, 4])
    def test_it_is_the_formula(self, num_particles, cvae, x, y):
        torch.manual_seed(3)
        pair = trace_pair(
            ProgramPair(functools.partial(cvae.model, y=y), functools.partial(cvae.guide, y=y)), x, num_particles
        )
        z = pair.guide_sites["z"]["value"].reshape(num_particles, B, LATENT_DIM)
        log_p = cvae.likelihood(torch.cat([z, ones(y).expand(num_particles, B, CLASSES)], -1)).log_prob(x)
        log_q = cvae.guide.posterior(x, ones(y)).log_prob(z)
        expected = log_p + cvae.model.prior().log_prob(z) - log_q
        torch.testing.assert_close(sum(pair.terms().values()), expected, rtol=0, atol=1e-12)
        found = seeded(pyro_vae.log_weights, cvae.model, cvae.guide, cvae.pack(x, y), num_particles)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("objective", [ELBO(num_particles=2), IWAE(3), IWAE(3, gradient="dreg")], ids=repr)
    def test_apart_and_packed_are_one(self, objective, cvae, x, y):
        apart = [functools.partial(half, y=y) for half in (cvae.model, cvae.guide)]
        expected = seeded(objective.bound, *apart, x)
        found = seeded(objective.bound, cvae.model, cvae.guide, cvae.pack(x, y))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert (seeded(objective.bound, cvae.model, cvae.guide, cvae.pack(x, (y + 1) % 3)) - found).abs().min() > 1e-3

    def test_pyros_loss_takes_two_arguments(self, cvae, x, y):
        loss = seeded(Trace_ELBO().loss, cvae.model, cvae.guide, x, y)
        bound = seeded(ELBO().bound, cvae.model, cvae.guide, cvae.pack(x, y))
        assert loss == pytest.approx(-bound.sum().item(), abs=1e-10)

    def test_under_the_exact_posterior_it_is_log_p_of_x_given_y(self):
        exact = LabelledPPCA()
        cvae = exact.program(ConditionalVAE)
        expected = exact.log_p_given_labels()[exact.y, torch.arange(len(exact.x))]
        packed = cvae.pack(exact.x, exact.y)
        torch.testing.assert_close(ELBO().bound(cvae.model, cvae.guide, packed), expected, rtol=0, atol=1e-10)
        estimate = pyro_vae.log_likelihood(cvae.model, cvae.guide, packed, 30, chunk_size=20, seed=0)
        assert estimate.num_dims == math.prod(cvae.data_shape)  # the label is given, and costs nothing
        torch.testing.assert_close(estimate.values, expected, rtol=0, atol=1e-10)

    def test_annealing_weighs_the_latent_and_not_the_label(self, cvae, x, y):
        pair, packed = (cvae.model, cvae.guide), cvae.pack(x, y)
        terms = seeded(trace_pair, ProgramPair(*pair), packed).terms()
        assert (terms["y"] == 0).all()
        bound = seeded(ELBO().bound, *anneal_kl(*pair, 0.3), packed)
        torch.testing.assert_close(bound, (terms["x"] + 0.3 * terms["z"])[0], rtol=0, atol=1e-12)

    def test_gradients_reach_every_parameter(self, cvae, x, y):
        ELBO().differentiable_loss(cvae.model, cvae.guide, cvae.pack(x, y)).backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in cvae.parameters())

    def test_it_can_be_traced(self, cvae, x, y):
        def bound(x):
            return [IWAE(4).bound(cvae.model, cvae.guide, x)]

        compiled = Compiled(bound, (cvae.model, cvae.guide), lower=traced)
        with pyro.validation_enabled(False):  # as in fit
            for labels in (y, y.flip(0)):  # the second is other data for the same graph
                packed = cvae.pack(x, labels)
                torch.testing.assert_close(seeded(compiled, packed), seeded(bound, packed), rtol=0, atol=1e-10)
        assert compiled.reason is None and compiled.num_traces == 1

    def test_devices_and_types(self, device, x, y):
        cvae = ConditionalVAE(IMAGE, CLASSES, LATENT_DIM, (5,), "gaussian").to(device)
        bound = ELBO().bound(cvae.model, cvae.guide, cvae.pack(x.float(), y).to(device))
        assert (bound.dtype, bound.device.type) == (torch.float32, device.type)
        assert cvae.sample(3, y=[0, 2, 1]).device.type == device.type


class TestDraws:
    def test_of_a_class(self):
        exact = LabelledPPCA()
        cvae = exact.program(ConditionalVAE)
        with torch.no_grad():
            cvae.likelihood.network.output.weight[:, :2] = 0  # the class is then all there is
        means = exact.means
        torch.testing.assert_close(cvae.sample(4, y=2, mean=True), means[[2, 2, 2, 2]], rtol=0, atol=1e-12)
        labels = torch.tensor([1, 0, 2])
        torch.testing.assert_close(cvae.sample(3, y=labels, mean=True), means[labels], rtol=0, atol=1e-12)
        assert cvae.sample(0, y=1).shape == (0, 6)
        drawn = torch.cdist(cvae.sample(300, mean=True), means).argmin(1).bincount(minlength=CLASSES)
        # 100 of each within 5.5 standard deviations of 8.2: a false alarm in 9 million seeds
        assert drawn.sum() == 300 and (drawn - 100).abs().max() < 45

    def test_encoding_and_reconstruction_use_the_label(self, cvae, x, y):
        packed = cvae.pack(x, y)
        z = cvae.encode(packed)
        torch.testing.assert_close(z, cvae.guide.posterior(x, ones(y)).mean, rtol=0, atol=1e-12)
        expected = cvae.likelihood(torch.cat([z, ones(y)], -1)).mean
        torch.testing.assert_close(cvae.reconstruct(packed), expected, rtol=0, atol=1e-12)


class TestUse:
    def test_fit_learns_what_the_label_says_and_load_brings_it_back(self, tmp_path):
        x = torch.eye(CLASSES).repeat(8, 1)  # the label tells all
        y = torch.arange(CLASSES).repeat(8)
        cvae = ConditionalVAE((CLASSES,), CLASSES, 1, (4,))
        history = pyro_vae.fit(
            cvae.model, cvae.guide, cvae.pack(x, y), num_epochs=40, batch_size=6, lr=0.05, seed=0,
            checkpoint=tmp_path, progress=False,
        )  # fmt: skip
        assert history.records[-1]["train_bound"] > -0.5 > -math.log(CLASSES)  # what is left without the label
        loaded = pyro_vae.load(tmp_path)
        assert isinstance(loaded, ConditionalVAE)
        check_close(dict(loaded.state_dict()), dict(cvae.state_dict()), rtol=0, atol=0)
        bounds = [seeded(ELBO().bound, p.model, p.guide, p.pack(x, y)) for p in (cvae, loaded)]
        assert torch.equal(*bounds)

    def test_integers_are_data_too(self, cvae, x, y):
        packed = cvae.pack(x.long().numpy(), y.numpy())
        assert torch.equal(packed.double(), cvae.pack(x, y))

    def test_parts_take_the_place_of_sizes(self, x, y):
        made = ConditionalVAE(IMAGE, CLASSES, LATENT_DIM, (5,))
        parts = {"prior": made.model.prior, "likelihood": made.likelihood, "posterior": made.guide.posterior}
        cvae = ConditionalVAE(IMAGE, CLASSES, **parts)
        bounds = [seeded(ELBO().bound, p.model, p.guide, p.pack(x.float(), y)) for p in (made, cvae)]
        assert torch.equal(*bounds)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((IMAGE, CLASSES), ValueError, "latent_dim: found None, expected one, or all of prior, likelihood and"),
            ((IMAGE, 1, 2), ValueError, r"num_classes: found \[1\], expected an integer, 2 or more"),
            ((IMAGE, 2.5, 2), ValueError, r"num_classes: found \[2.5\], expected an integer, 2 or more"),
            ((IMAGE, 3, 2, (5,), "normal"), ValueError, "likelihood: found 'normal', expected"),
            ((IMAGE, 3, 2, (5,), 1), TypeError, "likelihood: found int, expected"),
        ],
    )
    def test_of_construction(self, arguments, error, message):
        with pytest.raises(error, match=f"^{message}"):
            ConditionalVAE(*arguments)

    def test_of_data(self, cvae, x, y):
        for half in (cvae.model, cvae.guide):
            with pytest.raises(ValueError, match=r"^y: found data without labels, expected labels \(B,\), or x and y"):
                half(x)
            with pytest.raises(ValueError, match=r"^x: found the shape \(6, 16\), expected \(B, 4, 4\), or \(B, 17\)"):
                half(x.flatten(1))
            with pytest.raises(ValueError, match=r"^x: found the shape \(6, 17\), expected \(B, 4, 4\)$"):
                half(cvae.pack(x, y), y)
        with pytest.raises(ValueError, match=r"^x: found data without labels"):
            cvae.reconstruct(x)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (
                torch.tensor([0, 1, 2, 3, 0, 0]),
                r"y: found labels of shape \(6,\) and torch.int64 from 0 to 3, expected",
            ),
            (torch.tensor([0, 1, 2, -1, 0, 0]), r"y: found labels of shape \(6,\) and torch.int64 from -1 to 2"),
            (torch.full((6,), 0.5), r"y: found labels of shape \(6,\) and torch.float32 from 0.5 to 0.5"),
            (torch.zeros(5).long(), r"x, y: found the shapes \(6, 4, 4\) and \(5,\), expected \(N, 4, 4\) and \(N,\)"),
        ],
    )
    def test_of_labels(self, labels, message, cvae, x):
        with pytest.raises(ValueError, match=f"^{message}"):
            cvae.pack(x, labels)

    @pytest.mark.parametrize("y", [3, -1, [0, 1], [], 1.5, True, [[0, 1, 2, 0]]])
    def test_of_labels_to_draw(self, y, cvae):
        with pytest.raises(ValueError, match=r"^y: found labels of shape .*, expected an integer from 0 to 2, or one"):
            cvae.sample(4, y=y)

    def test_a_likelihood_that_takes_no_label(self, x, y):
        cvae = ConditionalVAE((3,), CLASSES, 2, (4,), Gaussian(MLP(2, (2, 3), ()), (3,)))
        with pytest.raises(ValueError, match=r"found an input of shape \(6, 5\), expected \(\*batch, 2\)"):
            cvae.model(torch.zeros(6, 3), y)
