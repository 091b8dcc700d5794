"""What the bounds lose: to which posteriors, of which data, and where gradients are off."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import evaluate
from pyro_vae.evaluation import gaps
from tests.support.programs import bits, vae

QUICK = {"num_particles": 100, "num_refined": 0, "annealed": False, "progress": False}
GAPS = [f"{kind}_gap_{family}" for family in ("own", "flow") for kind in ("amortisation", "approximation")]


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(gaps, "_STEPS", ((5, 0.01),))


@pytest.mark.cross
def test_gaps_do_not_depend_on_how_many_data_are_refined_at_once(monkeypatch):
    program = vae()
    options = QUICK | {"num_refined": 2, "num_particles": 5000}
    monkeypatch.setattr(gaps, "_STEPS", ((100, 0.02), (40, 0.002)))
    together = evaluate(program.model, program.guide, bits(6), **options)
    monkeypatch.setattr(gaps, "_MOST_BYTES", 1)  # one by one
    apart = evaluate(program.model, program.guide, bits(6), **options)
    for name in GAPS:
        difference, error = apart[name].mean - together[name].mean, apart[name].monte_carlo_error
        assert 0 < abs(difference) < 5 * error + 0.01 < 0.3  # other draws, and what the last steps leave
        assert apart[name].num_data == together[name].num_data == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_needs_no_gradients_from_outside(few_steps, mode):
    program, options = vae(), QUICK | {"num_refined": 3}
    expected = evaluate(program.model, program.guide, bits(6), **options)
    with mode():
        found = evaluate(program.model, program.guide, bits(6), **options)
    assert set(GAPS) < found.figures.keys() and found.as_dict() == expected.as_dict()


def test_programs_of_a_fixed_number_of_data(few_steps):
    def model(x):
        with pyro.plate("data", 6, dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(6, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 6, dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.6).to_event(1))

    found = evaluate(model, guide, torch.randn(6, 2), **QUICK | {"num_refined": 6})
    assert set(GAPS) < found.figures.keys() and found.notes == ()


def test_gaps_keep_a_mode_that_the_refined_posteriors_leave(double, monkeypatch):
    """z ~ N(0, 1), x ~ N(z², 0.3²) has two modes: a posterior refined in one of them has lost log 2 of log p(x)."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0] ** 2, 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_full((1,), 0.5), 0.6).to_event(1))

    x, z = torch.tensor([1.5, 2.0, 2.5, 1.2]), torch.linspace(-8, 8, 40_001)
    density = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, 0.3).log_prob(x[:, None])
    log_p = torch.trapezoid(density.exp(), z).log()
    monkeypatch.setattr(gaps, "_STEPS", ((100, 0.03),))
    found = evaluate(model, guide, x, num_iwae_particles=5000, annealed=False, progress=False)
    for family in ("own", "flow"):
        total = found[f"amortisation_gap_{family}"].mean + found[f"approximation_gap_{family}"].mean
        assert abs(total - (log_p - found.elbos).mean()) < 0.4  # the guide's own estimates miss 0.1 here
    assert found["approximation_gap_own"].num_heavy > 0
