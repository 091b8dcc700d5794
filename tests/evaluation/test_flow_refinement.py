"""Posteriors with a flow of each datum's own: exact on linear Gaussian models, a density on all others."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

import pyro_vae
from pyro_vae import ELBO, refine
from pyro_vae.evaluation import couplings
from pyro_vae.evaluation.couplings import Coupling, CouplingFlow
from pyro_vae.evaluation.refined_guide import RefinedGuide
from tests.support.parts import composed
from tests.support.programs import HIERARCHIES, HierarchyGuide, HierarchyModel, bits

WEIGHTS = torch.tensor([[2.0, 1.5], [1.0, 1.5], [0.0, 1.0]], dtype=torch.float64)
PRECISION = WEIGHTS.T @ WEIGHTS + torch.eye(2, dtype=torch.float64)
LOSS = 0.5 * (PRECISION.diagonal().log().sum() - PRECISION.logdet()).item()  # of the best diagonal Gaussian
COVARIANCE = WEIGHTS @ WEIGHTS.T + torch.eye(3, dtype=torch.float64)


def model(x):
    """z ~ N(0, I) in one site, x ~ N(W z, I)."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHTS.T, 1.0).to_event(1), obs=x)


def guide(x):
    """The best diagonal Gaussian."""
    with pyro.plate("data", len(x), dim=-1):
        mean = torch.linalg.solve(PRECISION, WEIGHTS.T @ x.T).T
        pyro.sample("z", dist.Normal(mean, PRECISION.diagonal().rsqrt()).to_event(1))


def model_of_two_sites(x):
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(torch.stack([a, b], -1) @ WEIGHTS.T, 1.0).to_event(1), obs=x)


def guide_of_two_sites(x):
    with pyro.plate("data", len(x), dim=-1):
        mean = torch.linalg.solve(PRECISION, WEIGHTS.T @ x.T)
        for name, loc, precision in zip("ab", mean, PRECISION.diagonal(), strict=True):
            pyro.sample(name, dist.Normal(loc, precision.rsqrt()))


def data(num_data):
    return MultivariateNormal(torch.zeros(3, dtype=torch.float64), COVARIANCE).sample((num_data,))


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param((model, guide), id="one site", marks=pytest.mark.cross),
        pytest.param((model_of_two_sites, guide_of_two_sites), id="two"),
    ],
)
def test_it_closes_what_the_best_diagonal_gaussian_loses(double, pair):
    x = data(20)
    log_p = MultivariateNormal(torch.zeros(3), COVARIANCE).log_prob(x)
    options = {"num_steps": 250, "num_particles": 20, "eval_particles": 1_000, "progress": False}
    own, flow = (refine(*pair, x, family=family, **options) for family in ("own", "flow"))
    for refinement in (own, flow):
        assert ((log_p - refinement.before).mean() - LOSS).abs() < 5 * refinement.gap_error()
        assert (log_p - refinement.after > -5 * refinement.std_error).all()  # a bound
    assert LOSS > 0.3 and (log_p - own.after).mean() > LOSS - 5 * own.gap_error()
    # The last steps of Adam have the size 0.01, which leaves hundredths of a nat.
    assert (log_p - flow.after).mean() < 0.15 * LOSS
    # The refined pair is a pair, whose weights vary less; both estimate the same.
    scores = [
        pyro_vae.log_likelihood(pair[0], each, x, 40_000, batch_size=20, seed=0) for each in (pair[1], flow.guide)
    ]
    for score in scores:
        assert (score.values - log_p).mean().abs() < 5 * score.mean_error() < 0.1
    assert scores[1].ess.mean() > 34_000 > 1.5 * scores[0].ess.mean()


class TestCouplings:
    def flow(self, shape=(2, 3), context=None):
        """Couplings of each of four data that are far from the identity."""
        units = torch.zeros(4, math.prod(shape))
        masks = [torch.arange(6) % 2 == 0, torch.arange(6) < 3]
        flow = [Coupling.identity(units, mask, 0 if context is None else context.shape[-1]) for mask in masks]
        with torch.no_grad():
            for each in (leaf for coupling in flow for leaf in coupling.leaves):
                each.normal_(0, 1)
        return CouplingFlow(flow, len(shape), context)

    @pytest.mark.parametrize("context", [None, torch.randn(5, 4, 2, dtype=torch.float64)], ids=["none", "context"])
    def test_inverse_and_determinant(self, double, context):
        flow = self.flow(context=context)
        u = torch.randn(5, 4, 2, 3)
        z = flow(u)
        again = CouplingFlow(flow.couplings, 2, context)  # which remembers no draw
        torch.testing.assert_close(again.inv(z.clone()), u, rtol=0, atol=1e-9)
        jacobian = torch.autograd.functional.jacobian(again, u)  # (5, 4, 2, 3, 5, 4, 2, 3)
        k, b = 3, 1
        expected = torch.linalg.slogdet(jacobian[k, b, :, :, k, b].reshape(6, 6)).logabsdet
        for each, start in ((flow, u), (again, u.clone())):
            torch.testing.assert_close(each.log_abs_det_jacobian(start, z)[k, b], expected, rtol=1e-9, atol=1e-9)
        others = jacobian[k, b].abs().sum((0, 1, -1, -2))
        assert (others > 0).nonzero().tolist() == [[k, b]]  # particles and data do not see each other

    def test_it_starts_at_the_identity(self, double):
        vae, x = composed("full", "standard").double(), bits(6).double()
        refinement = refine(vae.model, vae.guide, x, num_steps=1, lr=1e-300, family="flow", progress=False)
        bounds = []
        for each in (vae.guide, refinement.guide):
            torch.manual_seed(0)
            bounds.append(ELBO(num_particles=3).bound(vae.model, each, x))
        torch.testing.assert_close(*bounds, rtol=1e-12, atol=0)

    def test_a_single_unit_that_is_drawn_first_has_none(self, double):
        refinement = refine(model_of_two_sites, guide_of_two_sites, data(3), 1, family="flow", progress=False)
        assert len(refinement.guide.offsets()) == 4 + 2 * 3  # loc and scale of both, and two couplings of b


def test_of_a_long_chain_the_last_latents_are_the_context(double, monkeypatch):
    monkeypatch.setattr(couplings, "_MOST_CONTEXT", 3)

    def chain(x):
        with pyro.plate("data", len(x), dim=-1):
            for t in range(5):
                pyro.sample(f"z{t}", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    guide = RefinedGuide(chain, data(4), "flow")
    sizes = [guide._couplings[f"z{t}"][0].inner.shape[-1] for t in range(5)]
    assert sizes == [1, 3, 4, 4, 4]  # one unit of its own, and of the others 0, 2 and then 3
    drawn = pyro.poutine.trace(guide).get_trace(data(4))
    context = drawn.nodes["z4"]["fn"].transforms[0].context
    expected = torch.cat([drawn.nodes[name]["value"] for name in ("z2", "z3")], -1)[:, 1:]
    assert torch.equal(context, expected)


def gamma_model(x):
    with pyro.plate("data", len(x), dim=-1):
        rates = pyro.sample("rates", dist.Gamma(x.new_full((2,), 2.0), 1.0).to_event(1))
        weights = pyro.sample("weights", dist.Dirichlet(x.new_ones(3)))
        pyro.sample("x", dist.Poisson(rates.sum(-1, keepdim=True) * weights).to_event(1), obs=x)


def gamma_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("rates", dist.Gamma(x.new_full((2,), 3.0), 1.5).to_event(1))
        pyro.sample("weights", dist.Dirichlet(1 + 0.3 * x))


def masked_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.LogNormal(x.new_zeros(2), 1.0).to_event(1).mask(x[:, 0] > 0))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1).mask(x[:, 0] > 0), obs=x)


def masked_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.LogNormal(x.new_zeros(2), 0.8).to_event(1).mask(x[:, 0] > 0))


PAIRS = {
    "masked": lambda: (masked_model, masked_guide, torch.tensor([[1.0, 2.0], [2.0, 0.3], [-1.0, 0.0]])),
    "constrained": lambda: (gamma_model, gamma_guide, torch.poisson(torch.full((6, 3), 2.0))),
    "hierarchy": lambda: (HierarchyModel(), HierarchyGuide(), bits(6)),
    "flow": lambda: ((vae := composed("planar", "standard")).model, vae.guide, bits(6)),
    "ladder": lambda: ((vae := HIERARCHIES["conv-ladder"]()).model, vae.guide, bits(6)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_any_refined_guide_is_a_density(double, name):
    """Importance sampling from the guide and from the refined one agree, and the bound rises."""
    model, guide, x = PAIRS[name]()
    x = x.double()
    for program in (model, guide):
        if isinstance(program, torch.nn.Module):
            program.double()
    refinement = refine(model, guide, x, num_steps=60, lr=0.03, family="flow", progress=False)
    assert refinement.gap() > 3 * refinement.gap_error()
    first, second = (
        pyro_vae.log_likelihood(model, each, x, 4_000, batch_size=len(x), seed=seed)
        for seed, each in enumerate((guide, refinement.guide))
    )
    error = (first.std_error**2 + second.std_error**2).sqrt()
    assert ((first.values - second.values).abs() <= 5 * error).all() and error.max() < 0.3
    log_w = pyro_vae.log_weights(model, refinement.guide, x, 200)
    assert torch.isfinite(log_w).all()


@pytest.mark.parametrize("family", ["own", "flow"])
def test_data_of_several_arguments(double, family):
    """The same as a program of one argument that has them side by side."""

    def model_of_two(x, y):
        model(x + y)

    def guide_of_two(x, y):
        guide(x + y)

    x = data(5)
    one = refine(model, guide, x, 5, family=family, progress=False)
    two = refine(model_of_two, guide_of_two, (x - 1, torch.ones_like(x)), 5, family=family, progress=False)
    torch.testing.assert_close(one.after, two.after, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"^x: found the shape \(2, 3\), expected the data it was made for"):
        two.guide(x[:2], x[:2])


def test_an_unknown_family():
    with pytest.raises(ValueError, match="^family: found 'normal', expected one of 'own', 'flow'$"):
        refine(model, guide, data(3), family="normal")
