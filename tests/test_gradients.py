"""Every estimator of every bound's gradient: exact means by enumeration, formulas draw by draw, bias and variance."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError
from pyro_vae.objectives.gradients import curvature, learning_signal, slope
from tests.discrete import Discrete
from tests.every_objective import BOUNDS, EXTREMES, GRADIENTS
from tests.linear_gaussian import PPCA
from tests.programs import weights


class Model(pyro.nn.PyroModule):
    """z2 ~ N(0, 1), z1 ~ N(a z2, 0.7), x ~ N(b z1, 0.5): a and b for each datum, whose gradients are independent."""

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((num_data,), 0.8).double())
        self.b = nn.Parameter(torch.full((num_data,), 1.1).double())

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.7))
            pyro.sample("x", dist.Normal(self.b * z1, 0.5), obs=x)


class Guide(pyro.nn.PyroModule):
    """z1 ~ N(c x, s), z2 ~ N(d z1, t): bottom up, so that z2 follows z1."""

    def __init__(self, num_data: int) -> None:
        super().__init__()
        values = {"c": 0.5, "d": 0.6, "log_s": -0.5, "log_t": -0.1}
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.full((num_data,), value).double()))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.c * x, self.log_s.exp()))
            pyro.sample("z2", dist.Normal(self.d * z1, self.log_t.exp()))


def chain(num_data: int) -> tuple[Model, Guide, torch.Tensor]:
    return Model(num_data), Guide(num_data), torch.full((num_data,), 0.7).double()


def gradients(objective, model, guide, x, seed=3):
    """The gradient of the bound by every parameter, ``(B,)`` each, by name."""
    torch.manual_seed(seed)
    named = [*guide.named_parameters(), *model.named_parameters()]
    found = torch.autograd.grad(objective.bound(model, guide, x).sum(), [p for _, p in named])
    return {name: gradient for (name, _), gradient in zip(named, found, strict=True)}


class TestDiscreteLatents:
    @pytest.mark.parametrize("num_particles", [2, 4])
    @pytest.mark.parametrize("name", BOUNDS | EXTREMES)
    def test_the_mean_over_all_draws_is_the_gradient_of_the_mean(self, name, num_particles):
        """No Monte Carlo: every tuple of draws is a datum. VIMCO, leave-one-out and their kin have no bias at all."""
        discrete = Discrete(num_particles)
        objective = (BOUNDS | EXTREMES)[name](num_particles)
        found = gradients(objective, discrete.model, discrete.guide, discrete.x)
        by_guide, _, _ = discrete.exact_mean(objective.reduce_for_guide)
        _, by_prior, by_means = discrete.exact_mean(objective.reduce)
        for name_, expected in (("logits", by_guide), ("prior_logits", by_prior), ("means", by_means)):
            mean = (discrete.probability[:, None] * found[name_]).sum(0)
            torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)
            assert expected.abs().max() > 1e-3

    def test_one_particle_has_the_score_function_without_a_baseline(self):
        discrete = Discrete(1)
        for objective in (ELBO(), IWAE(1)):
            found = gradients(objective, discrete.model, discrete.guide, discrete.x)
            mean = (discrete.probability[:, None] * found["logits"]).sum(0)
            torch.testing.assert_close(mean, discrete.exact_mean(lambda log_w: log_w.mean(0))[0], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", ["ELBO", "IWAE"])
    def test_the_baseline_lowers_the_variance(self, name):
        """The variance of both estimators, exactly: with signals f - f without k (VIMCO), and with f for all."""
        discrete = Discrete(4)
        objective = BOUNDS[name](4)
        found = gradients(objective, discrete.model, discrete.guide, discrete.x)["logits"]
        index = torch.tensor(discrete.tuples).T
        log_w = torch.tensor(discrete.w).log()[index]
        score = nn.functional.one_hot(index, 3) - torch.tensor(discrete.q)  # (K, B, 3), the gradient of log q
        without = found + ((objective.reduce(log_w) - learning_signal(objective.reduce, log_w))[..., None] * score).sum(
            0
        )
        variances = []
        for estimate in (found, without):
            mean = (discrete.probability[:, None] * estimate).sum(0)
            variances.append((discrete.probability[:, None] * (estimate - mean).square()).sum().item())
        torch.testing.assert_close(mean, discrete.exact_mean(objective.reduce)[0], rtol=0, atol=1e-12)  # unbiased too
        assert variances[0] < 0.5 * variances[1]  # measured: 0.1 (ELBO) and 0.05 (IWAE)

    def test_leave_one_out_and_vimco_by_their_formulas(self):
        log_w = torch.randn(5, 3, dtype=torch.float64)
        signal = learning_signal(ELBO(5).reduce, log_w)
        for k in range(5):
            others = torch.cat([log_w[:k], log_w[k + 1 :]])
            torch.testing.assert_close(signal[k], (log_w[k] - others.mean(0)) / 5)
            substituted = torch.cat([others, others.mean(0, keepdim=True)]).exp().mean(0).log()
            vimco = log_w.exp().mean(0).log() - substituted
            torch.testing.assert_close(learning_signal(IWAE(5).reduce, log_w)[k], vimco)

    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    def test_an_estimator_by_the_path_alone_refuses_and_names_the_site(self, gradient):
        discrete = Discrete(2)
        with pytest.raises(ProgramError, match=f"site 'z': found a latent that cannot .*gradient='{gradient}'"):
            IWAE(2, gradient=gradient).bound(discrete.model, discrete.guide, discrete.x)
        with torch.no_grad():  # there is no gradient to be wrong
            assert IWAE(2, gradient=gradient).bound(discrete.model, discrete.guide, discrete.x).shape == (9,)

    def test_a_mixture_of_kinds(self):
        """y without a path, then z given y with one: the ELBO's gradient against the sum over y."""
        n = 60_000
        logit = nn.Parameter(torch.full((n,), 0.4).double())
        shift = nn.Parameter(torch.full((n,), 0.3).double())

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Bernoulli(x.new_tensor(0.3)))
                z = pyro.sample("z", dist.Normal(y, 1.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Bernoulli(logits=logit))
                pyro.sample("z", dist.Normal(0.5 * x + shift * y, 0.6))

        x = torch.full((n,), 0.7).double()
        found = torch.autograd.grad(ELBO(2).bound(model, guide, x).sum(), (logit, shift))
        q, total = torch.sigmoid(logit), 0
        for y, weight in ((1.0, q), (0.0, 1 - q)):
            loc = 0.5 * x + shift * y  # given y, all is Gaussian
            given = -0.5 * ((loc - y) ** 2 + 0.36) - 0.5 * ((x - loc) ** 2 + 0.36) / 0.25
            prior = 0.3 if y else 0.7
            total = total + weight * (given + math.log(prior) - weight.log())
        expected = torch.autograd.grad(total.sum(), (logit, shift))
        for estimate, exact in zip(found, expected, strict=True):
            error = (estimate.std() / math.sqrt(n)).item()
            assert abs(estimate.mean() - exact[0]) < 4.5 * error  # a false alarm in 150,000 runs


class TestPaths:
    @pytest.mark.parametrize("name", BOUNDS | EXTREMES)
    def test_reparam_is_the_derivative_with_the_noise_held(self, name):
        """Central differences with common random numbers; of PIWAE the model's half, its guide's is MIWAE's."""
        model, guide, x = chain(6)
        objective = (BOUNDS | EXTREMES)[name](4)
        found = gradients(objective, model, guide, x)
        reference = BOUNDS["MIWAE"](4) if name == "PIWAE" else objective
        for program, bound in ((guide, reference), (model, objective)):
            for parameter_name, parameter in program.named_parameters():
                values = []
                for step in (1e-5, -1e-5):
                    with torch.no_grad():
                        parameter += step
                        torch.manual_seed(3)
                        values.append(bound.bound(model, guide, x))
                        parameter -= step
                difference = (values[0] - values[1]) / 2e-5
                torch.testing.assert_close(found[parameter_name], difference, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    @pytest.mark.parametrize("name", BOUNDS)
    def test_path_estimators_draw_by_draw(self, name, gradient):
        """The formula written out for a chain of two latents, its path weighed once and not once a layer."""
        model, guide, x = chain(6)
        objective = BOUNDS[name](4, gradient=gradient)
        found = gradients(objective, model, guide, x)
        torch.manual_seed(3)
        trace = pyro.poutine.trace(pyro.plate("k", 4, dim=-2)(guide)).get_trace(x)
        z1, z2 = (trace.nodes[site]["value"].detach() for site in ("z1", "z2"))
        e1 = (z1 - guide.c * x) / guide.log_s.exp()
        e2 = (z2 - guide.d * z1) / guide.log_t.exp()
        e1, e2 = e1.detach(), e2.detach()
        z1 = guide.c * x + guide.log_s.exp() * e1
        z2 = guide.d * z1 + guide.log_t.exp() * e2

        def log_w(u1, u2):
            c, d, s, t = (p.detach() for p in (guide.c, guide.d, guide.log_s.exp(), guide.log_t.exp()))
            log_p = dist.Normal(0.0, 1.0).log_prob(u2) + dist.Normal(model.a * u2, 0.7).log_prob(u1)
            log_p = log_p + dist.Normal(model.b * u1, 0.5).log_prob(x)
            return log_p - dist.Normal(c * x, s).log_prob(u1) - dist.Normal(d * u1, t).log_prob(u2)

        u1, u2 = z1.detach().requires_grad_(), z2.detach().requires_grad_()
        values = log_w(u1, u2)
        coefficients = slope(objective.reduce_for_guide, values)
        if gradient == "dreg":
            coefficients = coefficients - curvature(objective.reduce_for_guide, values)
        g1, g2 = torch.autograd.grad(values, (u1, u2), coefficients, retain_graph=True)
        by_guide = torch.autograd.grad((z1, z2), list(guide.parameters()), (g1, g2))
        by_model = torch.autograd.grad(values, list(model.parameters()), slope(objective.reduce, values))
        expected = dict(zip([n for n, _ in guide.named_parameters()], by_guide, strict=True))
        expected |= zip([n for n, _ in model.named_parameters()], by_model, strict=True)
        for parameter_name, reference in expected.items():
            torch.testing.assert_close(found[parameter_name], reference, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("gradient", GRADIENTS)
    @pytest.mark.parametrize("name", BOUNDS | EXTREMES)
    def test_single_precision_is_enough_for_weights_far_apart(self, name, gradient):
        """Weights that differ by hundreds of nats: of most particles nothing is left, and must not be divided by."""
        found = []
        for dtype in (torch.float32, torch.float64):
            model, guide, x = chain(40)
            with torch.no_grad():
                guide.log_s.fill_(1.5)
                guide.log_t.fill_(1.0)
            torch.manual_seed(3)
            noise = torch.randn(2, 8, 40).double()

            class Noised(dist.Normal):
                def rsample(self, sample_shape=(), noise=noise):
                    return self.loc + self.scale * noise[0 if self.scale[0, 0] > 3 else 1].to(self.loc)

            class NoisedGuide(type(guide)):
                def forward(self, x, normal=Noised):
                    with pyro.plate("data", len(x), dim=-1):
                        z1 = pyro.sample("z1", normal(self.c * x, self.log_s.exp()))
                        pyro.sample("z2", normal(self.d * z1, self.log_t.exp()))

            noised = NoisedGuide(40)
            noised.load_state_dict(guide.state_dict())
            objective = (BOUNDS | EXTREMES)[name](8, gradient=gradient)
            log_w = pyro_vae.log_weights(model, noised, x, 8)
            assert (log_w.max(0).values - log_w.min(0).values).max() > 200
            found.append(gradients(objective, model.to(dtype), noised.to(dtype), x.to(dtype)))
        for parameter, single in found[0].items():
            double = found[1][parameter]
            torch.testing.assert_close(single.double(), double, rtol=2e-3, atol=2e-4 * double.abs().max().item())

    def test_slope_and_curvature_by_their_formulas(self):
        log_w = torch.randn(4, 7, dtype=torch.float64)
        normal = log_w.softmax(0)
        halves = log_w.unflatten(0, (2, 2)).softmax(1).flatten(0, 1)
        powered = (0.5 * log_w).softmax(0)
        expected = {
            "ELBO": (torch.full_like(log_w, 0.25), torch.zeros_like(log_w)),
            "IWAE": (normal, normal - normal**2),
            "MIWAE": (halves / 2, (halves - halves**2) / 2),
            "CIWAE": (0.3 / 4 + 0.7 * normal, 0.7 * (normal - normal**2)),
            "Renyi(0.5)": (powered, 0.5 * (powered - powered**2)),
        }
        for name, (first, second) in expected.items():
            reduce = BOUNDS[name](4).reduce
            torch.testing.assert_close(slope(reduce, log_w), first, rtol=0, atol=1e-12)
            torch.testing.assert_close(curvature(reduce, log_w), second, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", BOUNDS)
    def test_dreg_has_the_mean_of_reparam_and_less_variance(self, name):
        model, guide, x = chain(40_000)
        reparam, dreg = (gradients(BOUNDS[name](8, gradient=g), model, guide, x) for g in ("reparam", "dreg"))
        for parameter in ("c", "d", "log_s", "log_t"):
            difference = reparam[parameter] - dreg[parameter]
            error = (difference.std() / math.sqrt(len(x))).item()
            assert abs(difference.mean().item()) < 4.5 * error  # a false alarm in 150,000 runs
            if name != "Renyi(2)":  # whose largest weights pull it the other way
                assert dreg[parameter].var() < 0.8 * reparam[parameter].var()
        for parameter in ("a", "b"):  # the model's is the same, draw by draw
            torch.testing.assert_close(reparam[parameter], dreg[parameter], rtol=1e-10, atol=1e-12)

    def test_stl_is_unbiased_in_the_elbo_and_biased_in_iwae(self):
        model, guide, x = chain(40_000)
        for name, is_biased in (("ELBO", False), ("IWAE", True)):
            reparam, stl = (gradients(BOUNDS[name](8, gradient=g), model, guide, x) for g in ("reparam", "stl"))
            difference = reparam["c"] - stl["c"]
            error = (difference.std() / math.sqrt(len(x))).item()
            assert (abs(difference.mean().item()) > 20 * error) == is_biased
            if not is_biased:
                assert abs(difference.mean().item()) < 4.5 * error  # a false alarm in 150,000 runs
                assert stl["c"].var() < reparam["c"].var()

    @pytest.mark.parametrize("gradient, expected", [("reparam", -0.5), ("dreg", 0.5)])
    def test_signal_to_noise_as_particles_grow(self, gradient, expected):
        """|mean| / standard deviation of IWAE's guide gradient: as 1/√K by reparam, as √K by dreg."""
        model, guide, x = chain(4000)
        ks = torch.tensor([8.0, 16.0, 32.0, 64.0]).double()
        ratios = []
        for k in ks.long().tolist():
            objective = IWAE(k, gradient=gradient)
            estimates = torch.cat([gradients(objective, model, guide, x, seed)["c"] for seed in range(12)])
            ratios.append((estimates.mean().abs() / estimates.std()).item())
        logs = torch.tensor(ratios).double().log()
        centred = ks.log() - ks.log().mean()
        found = ((centred * logs).sum() / centred.square().sum()).item()
        relative = torch.tensor([1 / (ratio * math.sqrt(len(estimates))) for ratio in ratios]).double()  # of the logs
        error = ((centred * relative).square().sum().sqrt() / centred.square().sum()).item()
        assert abs(found - expected) < 4.5 * error + 0.12  # 0.12 for terms of higher order in 1/K

    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    @pytest.mark.parametrize("make", [ELBO, IWAE])
    def test_nothing_is_left_at_the_exact_posterior(self, make, gradient):
        """Each single draw's guide gradient is zero; the ordinary estimator's is not."""
        vae = PPCA.of().vae
        x = PPCA.of().x[:20]
        for estimator, is_zero in ((gradient, True), ("reparam", False)):
            vae.zero_grad()
            make(4, gradient=estimator).differentiable_loss(vae.model, vae.guide, x).backward()
            largest = max(p.grad.abs().max().item() for p in vae.guide.parameters())
            assert (largest < 1e-9) == is_zero


class FlowGuide(pyro.nn.PyroModule):
    """A conditional affine autoregressive flow, which remembers how it drew its last sample."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = pyro.distributions.transforms.conditional_affine_autoregressive(2, 4, hidden_dims=[6])

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            base = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.ConditionalTransformedDistribution(base, [self.transform]).condition(x))


class TestGuides:
    def test_a_flow_that_remembers_its_draws(self):
        """dreg against reparam in the mean, over repeated data; a remembered draw would lend it live parameters."""
        vae = pyro_vae.VAE((4,), 2, (5,)).double()
        guide = FlowGuide().double()
        x = torch.bernoulli(torch.full((1, 4), 0.5)).double().expand(2000, 4)
        sums: dict[str, list[torch.Tensor]] = {g: [] for g in GRADIENTS}
        for repeat in range(20):
            for gradient, collected in sums.items():
                bound = ELBO(2, gradient=gradient).bound
                torch.manual_seed(repeat)
                found = torch.autograd.grad(bound(vae.model, guide, x).mean(), list(guide.parameters()))
                collected.append(torch.cat([g.flatten() for g in found]))
        reparam, stl, dreg = (torch.stack(collected) for collected in sums.values())
        torch.testing.assert_close(stl, dreg, rtol=1e-9, atol=1e-12)  # one and the same for the ELBO
        difference = reparam - stl
        assert difference.abs().max() > 0.01
        error = difference.std(0) / math.sqrt(20)
        assert (difference.mean(0).abs() < 7 * error + 1e-12).all()  # Student's t of 19: 1e-6 each, of some 60
        assert error.max() < 0.2 * reparam.mean(0).abs().max() and stl.std(0).sum() < reparam.std(0).sum()

    def test_a_flow_without_an_inverse_is_refused(self):
        vae = pyro_vae.VAE((4,), 2, (5,))
        planar = dist.transforms.Planar(2)

        class PlanarGuide(pyro.nn.PyroModule):
            def __init__(self):
                super().__init__()
                self.planar = planar

            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    base = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
                    pyro.sample("z", dist.TransformedDistribution(base, [self.planar]))

        x = torch.zeros(3, 4)
        assert IWAE(2).bound(vae.model, PlanarGuide(), x).shape == (3,)
        with pytest.raises(ProgramError, match="site 'z': found .*no density at a given value, expected .*inverted"):
            IWAE(2, gradient="dreg").bound(vae.model, PlanarGuide(), x)

    def test_batch_normalisation_is_updated_once_and_means_the_same(self):
        class NormalisedGuide(pyro.nn.PyroModule):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    loc, raw = self.net(x).chunk(2, -1)
                    pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

        vae, x = pyro_vae.VAE((4,), 2, (5,)).double(), torch.bernoulli(torch.full((9, 4), 0.5)).double()
        bounds, buffers = [], []
        for gradient in GRADIENTS:
            torch.manual_seed(1)
            guide = NormalisedGuide().double()
            bounds.append(IWAE(3, gradient=gradient).bound(vae.model, guide, x))
            buffers.append({n: b for n, b in weights(guide).items() if "running" in n or "num_batches" in n})
        for bound, held in zip(bounds[1:], buffers[1:], strict=True):
            torch.testing.assert_close(bound, bounds[0], rtol=1e-12, atol=1e-12)
            for name, value in held.items():
                torch.testing.assert_close(value, buffers[0][name], rtol=0, atol=0)

    def test_shared_parameters_keep_the_models_half(self):
        """A prior that uses the encoder: only the guide's own density is held constant."""
        shared = nn.Parameter(torch.full((5,), 0.4).double())

        class Shared(pyro.nn.PyroModule):
            def __init__(self):
                super().__init__()
                self.loc = shared

        class SharedModel(Shared):
            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                    pyro.sample("x", dist.Normal(z, 0.5), obs=x)

        class SharedGuide(Shared):
            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(self.loc, 0.3))

        x = torch.full((5,), 0.7).double()
        model, guide = SharedModel(), SharedGuide()
        torch.manual_seed(3)
        (found,) = torch.autograd.grad(ELBO(gradient="stl").bound(model, guide, x).sum(), shared)
        torch.manual_seed(3)
        z = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["value"].detach()
        by_path = -(z - shared) - (z - x) / 0.25 + (z - shared) / 0.09  # d log w / dz, and dz / d loc = 1
        torch.testing.assert_close(found, (by_path + (z - shared)).detach(), rtol=1e-10, atol=1e-12)
