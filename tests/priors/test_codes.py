"""Priors of codes: normalised over all grids, causal, uniform at first; draws follow the density."""

from __future__ import annotations

from itertools import product

import pyro
import pytest
import torch
from scipy.stats import chi2

from pyro_vae.nn.recipes import build
from pyro_vae.priors.codes import AutoregressiveCodes, IndependentCodes
from tests.support.programs import perturbed

pytestmark = pytest.mark.usefixtures("double")
K = 3
GRIDS = torch.tensor(list(product(range(K), repeat=4))).reshape(-1, 2, 2)  # (81, 2, 2)

PRIORS = {
    "independent": lambda shape=(2, 2): IndependentCodes(shape, K),
    "autoregressive": lambda shape=(2, 2): AutoregressiveCodes(shape, K, hidden_dim=8, num_layers=2, num_heads=2),
}


def far(prior):
    """A prior far from where it starts, which is uniform."""
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


@pytest.mark.parametrize("name", PRIORS)
class TestEvery:
    def test_it_sums_to_one_over_all_grids(self, name):
        log_prob = far(PRIORS[name]())().log_prob(GRIDS)
        assert log_prob.shape == (81,) and log_prob.std() > 0.1
        torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(()), rtol=0, atol=1e-12)

    def test_it_starts_as_the_uniform_one(self, name):
        log_prob = PRIORS[name]()().log_prob(GRIDS)
        torch.testing.assert_close(log_prob.exp(), torch.full((81,), 1 / 81), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("batch_shape", [(), (5,), (3, 5)])
    @pytest.mark.parametrize("validate_args", [True, False])
    def test_one_distribution_under_any_plates(self, name, batch_shape, validate_args):
        prior = far(PRIORS[name]())
        with pyro.validation_enabled(validate_args):
            p = prior().expand(batch_shape)
        codes = p.sample()
        assert p.batch_shape == batch_shape and p.event_shape == (2, 2) and codes.shape == (*batch_shape, 2, 2)
        assert p.sample((4,)).shape == (4, *batch_shape, 2, 2)
        rows = torch.stack([prior().log_prob(grid) for grid in codes.reshape(-1, 2, 2)]).reshape(batch_shape)
        torch.testing.assert_close(p.log_prob(codes), rows, rtol=1e-12, atol=0)
        assert p.log_prob(GRIDS[0]).shape == batch_shape

    def test_draws_follow_the_density(self, name):
        """A chi-square test of 20,000 draws; the chance of a false alarm is 1e-6, and the seed is fixed."""
        p = far(PRIORS[name]((2,)))()
        grids = torch.tensor(list(product(range(K), repeat=2)))  # (9, 2)
        expected = 20_000 * p.log_prob(grids).exp()
        draws = p.sample((20_000,))
        found = torch.bincount(draws[:, 0] * K + draws[:, 1], minlength=9)
        assert expected.min() > 5  # or the statistic would not be chi-square's
        assert ((found - expected).square() / expected).sum().item() < chi2.isf(1e-6, 8)

    def test_training_makes_it_the_distribution_of_the_codes(self, name):
        """Codes that are all equal: a prior of independent codes pays 4 log 3 for them, one that looks back log 3."""
        prior = PRIORS[name]()
        optimizer = torch.optim.Adam(prior.parameters(), lr=0.03)
        x = torch.arange(K)[:, None, None].expand(K, 2, 2)
        for _ in range(150):
            optimizer.zero_grad()
            (-prior().log_prob(x).mean()).backward()
            optimizer.step()
        least = torch.tensor(float(K)).log() * (4 if name == "independent" else 1)
        assert least - 1e-6 < -prior().log_prob(x).mean() < least + 0.05


class TestAutoregressive:
    def test_each_code_is_given_those_before_it_alone(self):
        prior = far(PRIORS["autoregressive"]())
        codes = torch.tensor([[0, 1, 2, 0]])
        logits = prior.logits(codes)  # (1, 4, K)
        for j in range(4):
            other = codes.clone()
            other[0, j] = (other[0, j] + 1) % K
            same = (prior.logits(other) == logits).all(-1)[0].tolist()
            assert same == [i <= j for i in range(4)]

    def test_the_start_of_a_grid_gives_the_same_as_the_whole(self):
        """Which is how it draws."""
        prior = far(PRIORS["autoregressive"]())
        codes = torch.randint(K, (5, 4))
        whole = prior.logits(codes)
        for n in range(4):
            torch.testing.assert_close(prior.logits(codes[:, :n]), whole[:, : n + 1], rtol=1e-10, atol=1e-10)

    def test_a_network_gone_wild_gives_a_density_still(self):
        prior = PRIORS["autoregressive"]().float()
        with torch.no_grad():
            prior.output.bias.copy_(torch.tensor([-1e30, 0.0, 1e30]))
        log_prob = prior().log_prob(torch.full((2, 2), 2))
        assert log_prob == 0 and (prior().sample((3,)) == 2).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IndependentCodes((), 3), r"code_shape: found \(\), expected one positive integer or more"),
        (lambda: IndependentCodes((2, 0), 3), r"code_shape: found \(2, 0\), expected one positive integer or more"),
        (lambda: IndependentCodes((2,), 0), "num_codes: found 0, expected a positive integer"),
        (lambda: AutoregressiveCodes((2.0,), 3), r"code_shape: found \(2.0,\), expected one positive integer or more"),
        (lambda: AutoregressiveCodes((2,), 3, num_layers=0), "num_layers: found 0, expected a positive integer"),
        (lambda: AutoregressiveCodes((2,), 3, hidden_dim=6), "hidden_dim: found 6, expected a multiple of num_heads=4"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_both_are_rebuilt_from_their_recipes():
    for make in PRIORS.values():
        prior = perturbed(make())
        copy = build(prior.recipe)
        copy.load_state_dict(prior.state_dict())
        assert torch.equal(copy().log_prob(GRIDS), prior().log_prob(GRIDS))
