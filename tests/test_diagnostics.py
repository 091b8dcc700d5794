"""What the latents are used for: exact where a closed form exists, with a stated error bar elsewhere."""

from __future__ import annotations

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

import pyro_vae
from pyro_vae.diagnostics import diagnose, posterior_means
from pyro_vae.information import information
from tests.linear_gaussian import PPCA
from tests.programs import PAIRS, bits

EXACT = 1e-10  # float64


def guide(x):
    """Unit i of z1 moves with datum i / 10; z2 follows z1."""
    with pyro.plate("data", len(x), dim=-1):
        z1 = pyro.sample("z1", dist.Normal(x * torch.tensor([0.0, 0.05, 0.2, 3.0]), 0.01).to_event(1))
        pyro.sample("z2", dist.Normal(z1[..., 3:], 1.0).to_event(1))


def pair(prior, posterior, likelihood=lambda z: dist.Normal(z.new_zeros(()), 1.0)):
    """A model and a guide with one latent; of the data, ``(B, 1)``, one number is observed."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", likelihood(z), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", posterior(x))

    return model, guide


def standard_normal(num_units: int):
    return lambda x: dist.Normal(x.new_zeros(num_units), 1.0).to_event(1)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1000, 1).expand(1000, 4)  # one number a datum, of unit variance


class TestActiveUnits:
    def test_means_of_each_site(self, x):
        means = posterior_means(guide, x, batch_size=300)
        torch.testing.assert_close(means["z1"], x * torch.tensor([0.0, 0.05, 0.2, 3.0]))
        assert means["z2"].shape == (1000, 1)
        assert (means["z2"] - 3 * x[:, :1]).abs().max() < 0.06  # z1 was drawn with a scale of 0.01

    def test_units_are_active_above_the_threshold(self, x):
        assert pyro_vae.active_units(guide, x) == {"z1": 2, "z2": 1}  # variances 0, 0.0025, 0.04, 9
        assert pyro_vae.active_units(guide, x, threshold=0.001) == {"z1": 3, "z2": 1}

    @pytest.mark.parametrize("num_data", [100, 1000])
    def test_noise_of_the_lower_layer_is_no_activity_of_the_top(self, num_data):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                z1 = pyro.sample("z1", dist.Normal(x.new_zeros(20), 1.0).to_event(1))
                pyro.sample("z2", dist.Normal(z1 + x, 0.1).to_event(1))

        quiet = torch.zeros(num_data, 20)
        assert posterior_means(guide, quiet)["z2"].var(0).min() > 0.5  # what a single draw takes for activity
        assert pyro_vae.active_units(guide, quiet) == {"z1": 0, "z2": 0}
        moved = quiet + torch.randn(num_data, 20) * torch.tensor([0.0, 0.5] * 10)
        assert pyro_vae.active_units(guide, moved) == {"z1": 0, "z2": 10}

    def test_diagnose_takes_the_threshold(self, x):
        assert diagnose(*hierarchy(0.0), x[:, :1], num_data_mi=5).active_units["z1"] == 1
        assert diagnose(*hierarchy(0.0), x[:, :1], num_data_mi=5, threshold=10).active_units["z1"] == 0

    def test_draws_of_a_batch_are_one_batch(self, x):
        sizes = []

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                z1 = pyro.sample("z1", dist.Normal(x, 1.0).to_event(1))
                sizes.append(z1.shape[:-1].numel())
                pyro.sample("z2", dist.Normal(z1, 0.5).to_event(1))

        diagnose(hierarchy(1.0)[0], guide, x[:, :1], batch_size=100, num_data_mi=5)
        assert 80 < max(sizes) <= 100

    def test_sampling_noise_is_taken_off_without_bias(self):
        model, guide = hierarchy(lower_scale=1.0)
        x = torch.linspace(-0.5, 0.5, 400)[:, None]
        # E[z2|x] = x; 400 data with 25 draws each: the estimate scatters by σ²/S √(2/N) + 2 √(Var(x) σ²/S/N) < 0.01
        assert diagnose(model, guide, x, num_data_mi=20).activity["z2"].item() == pytest.approx(
            x.var().item(), abs=0.03
        )

    def test_draws_stand_in_for_the_mean_of_a_flow(self):
        def guide(x):
            base = dist.Normal(x.expand(-1, 2) * torch.tensor([0.0, 1.0]), 1.0)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.TanhTransform()]).to_event(1))

        x = torch.randn(1000, 1)
        assert pyro_vae.active_units(guide, x) == {"z": 1}
        assert posterior_means(guide, x) == {}

    @pytest.mark.parametrize(
        "posterior, expected",
        [
            (lambda x: dist.Categorical(logits=x.expand(-1, 3)), {}),
            (lambda x: dist.OneHotCategorical(logits=x * torch.tensor([0.0, 0.0, 5.0])), {"z": 3}),
            (lambda x: dist.Bernoulli(logits=x * torch.tensor([0.0, 5.0])).to_event(1), {"z": 1}),
        ],
    )
    def test_discrete_latents(self, posterior, expected):
        assert pyro_vae.active_units(pair(None, posterior)[1], torch.randn(500, 1)) == expected

    def test_batches_do_not_change_the_estimate(self, x):
        whole, cut = (diagnose(*hierarchy(0.0), x[:, :1], batch_size=size, num_data_mi=5) for size in (10**5, 130))
        torch.testing.assert_close(whole.activity["z1"], cut.activity["z1"], rtol=1e-6, atol=0)
        torch.testing.assert_close(cut.activity["z1"], x[:, :1].double().var(0), rtol=1e-6, atol=0)


def hierarchy(lower_scale: float):
    """z1 = x + noise, z2 follows z1 (bottom up); in the model all is standard normal, z2 before z1."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z2", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x, lower_scale + 1e-3).to_event(1))
            pyro.sample("z2", dist.Normal(z1, 0.5).to_event(1))

    return model, guide


class TestKL:
    def test_linear_vae_follows_its_eigenvalues(self):
        ppca = PPCA.of()
        found = diagnose(ppca.vae.model, ppca.vae.guide, ppca.x, num_data_mi=50)
        eigenvalues, N = ppca.eigenvalues[:2], len(ppca.x)
        kl = 0.5 * (eigenvalues / ppca.variance).log()
        torch.testing.assert_close(found.kl_per_unit["z"], kl, rtol=0, atol=EXACT)
        assert found.kl["z"] == pytest.approx(kl.sum().item(), abs=EXACT) and found.kl_error["z"] == 0
        activity = (1 - ppca.variance / eigenvalues) * N / (N - 1)
        torch.testing.assert_close(found.activity["z"], activity, rtol=0, atol=EXACT)
        assert (found.active_units, found.units, found.warnings) == ({"z": 2}, {"z": 2}, [])
        exact = ppca.exact_elbo().mean().item()
        assert 0 < found.elbo_error < 0.1
        assert abs(found.elbo - exact) < 4 * found.elbo_error  # 1 in 16,000 seeds
        assert found.fractions["z"] == pytest.approx(-found.kl["z"] / found.elbo)
        assert found.fractions["x"] == pytest.approx(1 - found.fractions["z"])

    def test_hierarchy_against_the_orders_of_its_programs(self):
        """z2 comes first in the model and last in the guide: it is in closed form, z1 is not (its p follows z2)."""
        found = diagnose(*hierarchy(1.0), torch.linspace(-1, 1, 200)[:, None], num_data_mi=5)
        assert found.kl_error["z1"] > 0 and found.kl_error["z2"] > 0  # that of z2 moves with the draw of z1
        x2 = torch.linspace(-1, 1, 200).square().mean().item()
        variance = 1.001**2
        expected = {
            "z1": 0.5 * (x2 + variance - 1 - math.log(variance)),
            "z2": 0.5 * (x2 + variance + 0.25 - 1 - math.log(0.25)),
        }
        for name, kl in expected.items():
            assert abs(found.kl[name] - kl) < 4 * found.kl_error[name]  # 1 in 16,000 seeds
            assert found.kl_error[name] < 0.05

    def test_a_site_whose_prior_follows_later_draws_is_sampled(self):
        """The closed form given z2 would be KL(q(z1|x) ‖ p(z1|z2)) of a z2 that has seen z1: another number."""

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z2 = pyro.sample("z2", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
                pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x[:, 0])

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                z1 = pyro.sample("z1", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("z2", dist.Normal(z1, 0.1).to_event(1))

        found = diagnose(model, guide, torch.zeros(400, 1), num_data_mi=5)
        # E[log N(z1; 0, 1) − log N(z1; z2, 1)] = ½ (E(z1 − z2)² − E z1²) = ½ (0.01 − 1); the closed form: ½ E z2² ≈ ½
        assert abs(found.kl["z1"] - 0.5 * (0.01 - 1)) < 4 * found.kl_error["z1"] < 0.1

    @pytest.mark.parametrize("covariance", [False, True])
    def test_units_add_up_and_what_does_not_factorise_is_one(self, covariance):
        tril = torch.tensor([[1.0, 0.0], [0.8, 0.6]])

        def posterior(x):
            loc = x * torch.tensor([1.0, 2.0])
            return dist.MultivariateNormal(loc, scale_tril=tril) if covariance else dist.Normal(loc, 1.0).to_event(1)

        x = torch.linspace(-1, 1, 100)[:, None]
        found = diagnose(*pair(standard_normal(2), posterior), x, num_data_mi=5)
        loc_kl = 0.5 * x.square().mean() * torch.tensor([1.0, 4.0])
        if covariance:
            assert found.kl_per_unit["z"].shape == (1,) and found.units == {"z": 2}
            assert found.kl["z"] == found.kl_per_unit["z"].item()
            expected = loc_kl.sum().item() - math.log(0.6)  # trace 2, determinant 0.36
            assert abs(found.kl["z"] - expected) < 4 * found.kl_error["z"] < 1  # 1 in 16,000 seeds
        else:
            torch.testing.assert_close(found.kl_per_unit["z"].float(), loc_kl)
            assert found.kl["z"] == pytest.approx(found.kl_per_unit["z"].sum().item(), abs=EXACT)

    def test_categorical_latent(self):
        model, guide = pair(
            lambda x: dist.Categorical(x.new_full((4,), 0.25)),
            lambda x: dist.Categorical(torch.eye(4)[x[:, 0].long()] * (1 - 1e-6) + 1e-6 / 4),
        )
        found = diagnose(model, guide, torch.arange(8.0)[:, None] % 4)
        assert found.kl["z"] == pytest.approx(math.log(4), abs=1e-4) and found.kl_per_unit["z"].shape == (1,)
        assert found.mutual_information == pytest.approx(math.log(4), abs=1e-4)  # eight data, but four codes
        assert found.activity == {} == found.active_units == found.units and found.warnings == []

    def test_scales_are_ignored_and_masks_count(self):
        x = torch.linspace(-1, 1, 10)[:, None]
        model, guide = pair(standard_normal(2), lambda x: dist.Normal(x.expand(-1, 2), 0.5).to_event(1))
        plain = diagnose(model, guide, x)
        assert diagnose(poutine.scale(model, 7.0), poutine.scale(guide, 3.0), x) == same_as(plain)
        mask = torch.arange(10) < 5
        masked = diagnose(poutine.mask(model, mask), poutine.mask(guide, mask), x)
        half = diagnose(model, guide, x[:5])
        torch.testing.assert_close(masked.kl_per_unit["z"], half.kl_per_unit["z"] / 2)
        torch.testing.assert_close(masked.activity, plain.activity)  # a mean is not a density

    def test_further_plates_hold_units_too(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                with pyro.plate("parts", 3, dim=-2):
                    z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-3, keepdim=True)[..., 0], 1.0), obs=x[:, 0])

        def guide(x):
            with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
                loc = torch.arange(3.0)[:, None, None] * x * torch.tensor([1.0, 0.0])  # (3, B, 2)
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

        x = torch.linspace(-1, 1, 50)[:, None]
        found = diagnose(model, guide, x, max_plate_nesting=2)
        expected = 0.5 * x.square().mean() * torch.tensor([0, 0, 1.0, 0, 4.0, 0])
        torch.testing.assert_close(found.kl_per_unit["z"].float(), expected)
        assert found.active_units == {"z": 2} == pyro_vae.active_units(guide, x) and found.units == {"z": 6}
        assert found.mutual_information > 0.1


class same_as:
    """Equal to a dataclass, tensors too."""

    def __init__(self, expected):
        self.expected = expected

    def __eq__(self, other):
        torch.testing.assert_close(dataclasses.asdict(other), dataclasses.asdict(self.expected))
        return True


class TestInformation:
    def test_four_codes_far_apart(self):
        x = torch.arange(40.0)[:, None] % 4
        found = information(*pair(standard_normal(1), lambda x: dist.Normal(1000 * x, 1.0).to_event(1)), x)
        assert found.mutual_information == pytest.approx(math.log(4), abs=1e-4)
        assert found.mutual_information_error < 1e-4

    def test_different_data_with_codes_far_apart_reach_the_bound(self):
        model, guide = pair(standard_normal(1), lambda x: dist.Normal(1000 * x, 1.0).to_event(1))
        found = information(model, guide, torch.arange(40.0)[:, None], num_data=30, batch_size=7)
        assert found.num_data == 30
        assert found.mutual_information == pytest.approx(math.log(30), abs=1e-4) and found.bound == math.log(30)

    def test_a_guide_that_ignores_the_data_knows_nothing(self):
        model, guide = pair(standard_normal(3), lambda x: dist.Normal(x.new_full((3,), 2.0), 1.0).to_event(1))
        found = information(model, guide, torch.randn(500, 1))
        assert abs(found.mutual_information) < 1e-5 and found.mutual_information_error < 1e-5
        assert abs(found.aggregate_kl - 6.0) < 4 * found.aggregate_kl_error < 1  # 3 · 2² / 2; 1 in 16,000 seeds
        assert found.kl == pytest.approx(found.aggregate_kl, abs=1e-5)

    def test_gaussian_aggregate(self):
        """With x ~ N(0, 3) and q = N(x, 1): q(z) = N(0, 4) and I = ½ log 4; up to O(1/N) for the N data."""
        quantiles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        x = (3**0.5 * torch.special.ndtri(quantiles))[:, None]
        found = information(*pair(standard_normal(1), lambda x: dist.Normal(x, 1.0).to_event(1)), x)
        assert abs(found.mutual_information - 0.5 * math.log(4)) < 4 * found.mutual_information_error + 5e-3
        assert abs(found.aggregate_kl - 0.5 * (4 - 1 - math.log(4))) < 4 * found.aggregate_kl_error + 5e-3
        assert max(found.mutual_information_error, found.aggregate_kl_error) < 0.07

    @pytest.mark.parametrize("name", ["hierarchy", "tutorial", "bernoulli-mlp"])
    def test_the_two_add_up_to_the_kl_and_blocks_do_not_matter(self, name, monkeypatch):
        model, guide = (program.double() for program in PAIRS[name]())
        x = bits(23).double() if name != "tutorial" else bits(23).double().flatten(1)
        found = information(model, guide, x, num_data=21)
        assert found.mutual_information + found.aggregate_kl == pytest.approx(found.kl, abs=EXACT)
        assert found.mutual_information <= math.log(21)
        # By hand, with the same draws: every pair of datum and code, one at a time.
        with torch.no_grad(), pyro_vae.state.evaluating(model, guide):
            torch.manual_seed(0)
            traces = [poutine.trace(guide).get_trace(x[:21])]
            codes = {n: s["value"] for n, s in traces[0].nodes.items() if s["type"] == "sample" and n != "data"}
            log_q = torch.empty(21, 21, dtype=torch.float64)
            for n in range(21):
                given = {site: value[n].expand(21, -1) for site, value in codes.items()}
                log_q[n] = sum(
                    s["fn"].log_prob(s["value"])
                    for site, s in poutine.trace(poutine.condition(guide, given)).get_trace(x[:21]).nodes.items()
                    if site in codes
                )
        pyro.clear_param_store()
        expected = (log_q.diagonal() - log_q.logsumexp(1) + math.log(21)).mean().item()
        assert found.mutual_information == pytest.approx(expected, abs=EXACT)
        monkeypatch.setattr("pyro_vae.information._BLOCK_ROWS", 60)
        small = information(model, guide, x, num_data=21, batch_size=21)
        assert dataclasses.astuple(small) == pytest.approx(dataclasses.astuple(found), abs=EXACT)

    def test_a_flow_without_inverse_has_none(self):
        flow = dist.transforms.Planar(2)

        def posterior(x):
            return dist.TransformedDistribution(dist.Normal(x.expand(-1, 2), 1.0).to_event(1), [flow])

        found = diagnose(*pair(standard_normal(2), posterior), torch.randn(20, 1))
        assert math.isnan(found.mutual_information) and math.isnan(found.aggregate_kl)
        assert math.isfinite(found.elbo) and found.kl_per_unit["z"].shape == (1,) and found.units == {"z": 2}

    def test_diagnose_reports_it(self):
        model, guide = pair(standard_normal(1), lambda x: dist.Normal(x, 1.0).to_event(1))
        x = torch.randn(100, 1)
        found, split = diagnose(model, guide, x, num_data_mi=50), information(model, guide, x, num_data=50)
        assert (found.mutual_information, found.aggregate_kl) == (split.mutual_information, split.aggregate_kl)
        assert found.mutual_information_bound == math.log(50) and (found.num_data, found.num_data_mi) == (100, 50)


class TestWarnings:
    def warnings(self, loc: float, scale: float, moves: float) -> list[str]:
        model, guide = pair(standard_normal(1), lambda x: dist.Normal(loc + moves * x, scale).to_event(1))
        return diagnose(model, guide, torch.randn(100, 1), num_data_mi=5).warnings

    def test_a_layer_in_use_has_none(self):
        assert self.warnings(0.0, 0.5, 1.0) == []

    def test_a_layer_at_its_prior(self):
        (sentence,) = self.warnings(0.0, 1.0, 0.0)
        assert "'z'" in sentence and "0.000 nats" in sentence and "0 of its 1 units" in sentence
        assert "keeps to the prior" in sentence

    def test_a_layer_that_costs_and_does_not_move(self):
        (sentence,) = self.warnings(2.0, 1.0, 0.0)
        assert "2.000 nats" in sentence and "0 of its 1 units" in sentence and "does not move with the data" in sentence

    def test_a_layer_that_moves_by_next_to_nothing(self):
        (sentence,) = self.warnings(0.0, 1.0, 0.2)
        assert "1 of its 1 units" in sentence and "hardly more" in sentence

    def test_only_the_layer_that_has_collapsed_is_named(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("z1", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x[:, 0])

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z1", dist.Normal(x, 0.1).to_event(1))
                pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

        found = diagnose(model, guide, torch.randn(100, 1), num_data_mi=5)
        assert list(found.kl) == ["z2", "z1"] == list(found.activity)  # in the model's order
        assert [sentence.split("'")[1] for sentence in found.warnings] == ["z2"]


class TestProtocol:
    def test_state_is_given_back(self, x):
        vae = pyro_vae.VAE((4,), 2, (5,))
        vae.train()
        generator = torch.get_rng_state()
        assert set(pyro_vae.active_units(vae.guide, x)) == {"z"}
        diagnose(vae.model, vae.guide, x.sigmoid().round()[:20])
        assert vae.guide.training and vae.model.training and torch.equal(generator, torch.get_rng_state())
        assert list(pyro.get_param_store()) == []
        assert all(parameter.grad is None for parameter in vae.parameters())

    def test_it_runs_in_eval_mode(self):
        class Guide(PyroModule):
            def __init__(self):
                super().__init__()
                self.dropout = nn.Dropout(0.5)

            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(self.dropout(x), 1.0).to_event(1))

        x = torch.linspace(-1, 1, 50)[:, None]
        found = diagnose(pair(standard_normal(1), None)[0], Guide().train(), x)
        assert found.kl["z"] == pytest.approx(0.5 * x.square().mean().item(), rel=1e-5)
        model, guide = pair(
            standard_normal(1), lambda x: dist.Normal(x, 1.0).to_event(1)
        )  # what dropout leaves in eval
        split = information(model, guide, x)
        assert (found.mutual_information, found.aggregate_kl) == (split.mutual_information, split.aggregate_kl)

    @pytest.mark.parametrize("name", sorted(PAIRS))
    def test_every_pair(self, name):
        x = bits(12).flatten(1) if name == "tutorial" else bits(12)
        found = diagnose(*PAIRS[name](), x)
        assert sum(found.fractions.values()) == pytest.approx(1)
        for site, kl in found.kl.items():
            assert found.kl_per_unit[site].sum().item() == pytest.approx(kl, abs=1e-6)
            assert found.kl_per_unit[site].dtype == torch.float64
        assert sum(found.kl.values()) == pytest.approx(-found.elbo * sum(found.fractions[s] for s in found.kl))

    def test_tensors_come_back_from_the_device(self, device):
        vae = pyro_vae.VAE((4, 4), 2, (5,)).to(device)
        found = diagnose(vae.model, vae.guide, bits(30))
        assert found.kl_per_unit["z"].device.type == found.activity["z"].device.type == "cpu"
        assert found.mutual_information + found.aggregate_kl == pytest.approx(found.kl["z"], abs=1.0)  # 30 draws

    def test_the_seed_decides(self):
        vae = pyro_vae.VAE((4, 4), 2, (5,))
        first, again, other = (diagnose(vae.model, vae.guide, bits(30), seed=seed) for seed in (0, 0, 1))
        assert again == same_as(first) and other.elbo != first.elbo

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"num_data_mi": 0}, "num_data_mi: found 0, expected a positive integer"),
            ({"x": bits(1)}, "x: found 1 datum, expected 2 or more"),
            ({"x": bits(3) + 0.5}, "x: found the value"),
        ],
    )
    def test_it_refuses(self, options, message):
        vae = pyro_vae.VAE((4, 4), 2, (5,))
        with pytest.raises(ValueError, match=message):
            diagnose(vae.model, vae.guide, **{"x": bits(5)} | options)
