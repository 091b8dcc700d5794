"""Active units and posterior means: what moves with the data, and what with nothing but the draws."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vae
from pyro_vae import ProgramError
from pyro_vae.diagnostics.diagnosis import diagnose, posterior_means
from tests.support.codes import hierarchy, pair

EXACT = 1e-10  # float64


def guide(x):
    """Unit i of z1 moves with datum i / 10; z2 follows z1."""
    with pyro.plate("data", len(x), dim=-1):
        z1 = pyro.sample("z1", dist.Normal(x * torch.tensor([0.0, 0.05, 0.2, 3.0]), 0.01).to_event(1))
        pyro.sample("z2", dist.Normal(z1[..., 3:], 1.0).to_event(1))


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

    def test_a_guide_that_is_another_one_in_a_plate_of_draws_is_refused(self):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                z1 = pyro.sample("z1", dist.Normal(x, 0.1).to_event(1))
                pyro.sample("z2", dist.Normal(0.3 * z1.softmax(dim=1), 0.1).to_event(1))  # of (B, 2) alone

        with pytest.raises(ProgramError, match="^vectorize_particles: found True and programs that take no dimension"):
            pyro_vae.active_units(guide, torch.randn(300, 1) * torch.tensor([2.0, -2.0]))

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
        assert sizes[:2] == [100, 100] and sizes[2] == 300  # the check of particles: plain, in a plate, and one by one
        assert 80 < max(sizes[3:]) <= 100

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
