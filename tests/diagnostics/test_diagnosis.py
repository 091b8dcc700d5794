"""What the latents are used for: exact where a closed form exists, with a stated error bar elsewhere."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

import pyro_vae
from pyro_vae.diagnostics.diagnosis import diagnose
from pyro_vae.diagnostics.mutual_information import information
from tests.support.codes import hierarchy, pair, standard_normal
from tests.support.diagnoses import same_as
from tests.support.linear_gaussian import PPCA
from tests.support.programs import PAIRS, bits

EXACT = 1e-10  # float64


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1000, 1).expand(1000, 4)  # one number a datum, of unit variance


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
