"""Correlated Gaussians in float32: densities of own draws beside mpmath's 200 digits, and their derivatives."""

from __future__ import annotations

import math

import mpmath
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.flows import gaussian
from pyro_vae.flows.draws import noise_of_draw, remember
from pyro_vae.flows.gaussian import FactorNormal, TriangularNormal
from pyro_vae.inference.noise import to_noise

D = 10
CASES = [(off, sigma) for off in (1.0, 100.0, 1e4) for sigma in (0.05, 1e-3)]


@pytest.fixture
def same_noise(monkeypatch):
    """The same noise for the same seed in float32 and in float64."""
    monkeypatch.setattr(gaussian, "_normal", lambda like, shape: torch.randn(shape).to(like.dtype))


def full_parameters(off, sigma, num_data=3, dim=D, seed=0):
    random = torch.Generator().manual_seed(seed)
    loc = torch.randn(num_data, dim, generator=random)
    below = torch.randn(num_data, dim, dim, generator=random).tril(-1)
    return {"loc": loc, "scale_tril": off * below + sigma * torch.eye(dim)}


def factor_parameters(off, sigma, rank=3, num_data=3, dim=D, is_parallel=False):
    random = torch.Generator().manual_seed(0)
    loc, factor = torch.randn(num_data, dim, generator=random), torch.randn(num_data, dim, rank, generator=random)
    factor = factor[..., :1].expand_as(factor) if is_parallel else factor
    return {"loc": loc, "cov_factor": off * factor, "cov_diag": torch.full((num_data, dim), sigma**2)}


def with_gradients(parameters, dtype=None):
    return {name: value.detach().to(dtype or value.dtype).requires_grad_() for name, value in parameters.items()}


def exact_density(covariance, moved):
    """The log-density of a Gaussian at z - μ, from the definition, in mpmath."""
    inverse_times = mpmath.lu_solve(covariance, moved)
    log_det = mpmath.log(mpmath.det(covariance))
    return float(-((moved.T * inverse_times)[0] + log_det + len(moved) * mpmath.log(2 * mpmath.pi)) / 2)


def matrix(tensor):
    return mpmath.matrix(tensor.double().tolist())


def exact_densities(q, noise):
    found = []
    with mpmath.workdps(200):
        for b in range(len(noise)):
            if isinstance(q, FactorNormal):
                factor, diag = matrix(q.cov_factor[b]), matrix(q.cov_diag[b])
                inner, outer = matrix(noise[b, : factor.cols]), matrix(noise[b, factor.cols :])
                scaled = mpmath.matrix([mpmath.sqrt(v) * e for v, e in zip(diag, outer, strict=True)])
                found.append(exact_density(factor * factor.T + mpmath.diag(list(diag)), factor * inner + scaled))
            else:
                tril = matrix(q.scale_tril[b])
                found.append(exact_density(tril * tril.T, tril * matrix(noise[b])))
    return torch.tensor(found, dtype=torch.float64)


class TestOwnDraws:
    @pytest.mark.parametrize(("off", "sigma"), CASES)
    def test_full(self, off, sigma):
        q = TriangularNormal(**full_parameters(off, sigma))
        torch.manual_seed(0)
        z = q.rsample()
        noise = q.noise_of_draw(z)
        bound = q.loc.abs() + (q.scale_tril.abs() @ noise.abs()[..., None])[..., 0]
        image = q.loc.double() + (q.scale_tril.double() @ noise.double()[..., None])[..., 0]
        assert ((z - image).abs() <= (D + 2) * torch.finfo(z.dtype).eps * bound).all()  # the noise is that of the draw
        torch.testing.assert_close(q.log_prob(z).double(), exact_densities(q, noise), rtol=1e-6, atol=1e-5)

    @pytest.mark.parametrize(("rank", "is_parallel"), [(3, False), (3, True), (D + 2, False)])
    @pytest.mark.parametrize(("off", "sigma"), CASES)
    def test_low_rank(self, off, sigma, rank, is_parallel):
        q = FactorNormal(**factor_parameters(off, sigma, rank, is_parallel=is_parallel))
        torch.manual_seed(0)
        z = q.rsample()
        noise = q.noise_of_draw(z)
        torch.testing.assert_close(q.log_prob(z).double(), exact_densities(q, noise), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(z, q.loc + (q.cov_factor @ noise[:, :rank, None])[..., 0] + sigma * noise[:, rank:])
        with mpmath.workdps(200):
            log_det = [
                mpmath.log(mpmath.det(matrix(u) * matrix(u).T + mpmath.diag(v.double().tolist())))
                for u, v in zip(q.cov_factor, q.cov_diag, strict=True)
            ]
        entropy = torch.tensor([float(each) / 2 for each in log_det]) + D / 2 * (1 + math.log(2 * math.pi))
        torch.testing.assert_close(q.entropy(), entropy, rtol=1e-6, atol=1e-5)

    @pytest.mark.parametrize(("off", "sigma"), CASES)
    @pytest.mark.parametrize("kind", ["full", "low rank"])
    def test_the_gradient_of_a_log_weight(self, kind, off, sigma, same_noise):
        """That in float32 is that in float64; the prior is as wide as the draws, so that each gradient counts."""
        cls, make = (TriangularNormal, full_parameters) if kind == "full" else (FactorNormal, factor_parameters)
        found = []
        for dtype in (torch.float32, torch.float64):
            parameters = with_gradients(make(off, sigma), dtype)
            q = cls(**parameters)
            torch.manual_seed(0)
            z = q.rsample((2,))
            log_w = dist.Normal(torch.zeros((), dtype=dtype), off).log_prob(z).sum(-1) - q.log_prob(z)
            gradients = torch.autograd.grad(log_w.sum(), list(parameters.values()))
            found.append([log_w, *gradients])
        for single, double in zip(*found, strict=True):
            if single.dim() == 3 and kind == "full":
                single, double = single.tril(), double.tril()
            torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=2e-5 * double.abs().max().item())

    @pytest.mark.parametrize("kind", ["full", "low rank"])
    def test_they_are_torchs_where_these_are_exact(self, kind, double):
        """In float64, with the total derivative of a draw, and the partial one of a draw without a gradient."""
        full = kind == "full"
        cls, make = (TriangularNormal, full_parameters) if full else (FactorNormal, factor_parameters)
        theirs = dist.MultivariateNormal if full else dist.LowRankMultivariateNormal
        options = {"dim": 3} | ({} if full else {"rank": 2})
        for draws in ("rsample", "sample"):
            found = []
            for each in (cls, theirs):
                parameters = with_gradients(make(0.7, 0.5, **options), torch.float64)
                q = each(**parameters).expand((4, 3))
                torch.manual_seed(1)
                z = getattr(q, draws)((5,))
                log_q = q.log_prob(z)
                slope = torch.linspace(-1, 1, log_q.numel()).view_as(log_q)
                gradients = torch.autograd.grad((slope * log_q).sum(), list(parameters.values()), allow_unused=True)
                gradients = [g if g is None or g.dim() < 3 or not full else g.tril() for g in gradients]
                found.append([z, log_q, *gradients, q.entropy(), q.mean, q.variance, q.covariance_matrix])
            for ours, expected in zip(*found, strict=True):
                if ours is None:  # of μ, which moves the draw along
                    assert draws == "rsample" and expected.abs().max() < 1e-12
                else:
                    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


class TestOtherValues:
    def test_equal_values_are_given_values(self):
        q = TriangularNormal(**full_parameters(1.0, 0.5))
        z = q.rsample()
        assert q.noise_of_draw(z) is not None and q.noise_of_draw(z.clone()) is None
        expected = dist.MultivariateNormal(q.loc.double(), scale_tril=q.scale_tril.double()).log_prob(z.double())
        torch.testing.assert_close(q.log_prob(z.clone()).double(), expected, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("cls", [TriangularNormal, FactorNormal])
    def test_a_draw_that_was_changed_is_another_value(self, cls, double):
        q = cls(**(full_parameters if cls is TriangularNormal else factor_parameters)(1.0, 0.5))
        z = q.rsample()
        z += 1
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-12, atol=0)

    def test_low_rank_in_float32(self):
        """The density of the rounded value itself, which Woodbury's formula in float32 has wrong by 1e2 nats."""
        q = FactorNormal(**factor_parameters(100.0, 0.05))
        z = q.sample().clone()
        with mpmath.workdps(200):
            expected = [
                exact_density(matrix(u) * matrix(u).T + mpmath.diag(v.double().tolist()), matrix(each) - matrix(loc))
                for u, v, each, loc in zip(q.cov_factor, q.cov_diag, z, q.loc, strict=True)
            ]
        torch.testing.assert_close(q.log_prob(z), torch.tensor(expected), rtol=1e-6, atol=1e-5)

    @pytest.mark.parametrize("cls", [TriangularNormal, FactorNormal])
    def test_values_are_validated(self, cls):
        parameters = (full_parameters if cls is TriangularNormal else factor_parameters)(1.0, 0.5)
        with pytest.raises(ValueError, match="to be within the support"):
            cls(**parameters, validate_args=True).log_prob(torch.full((3, D), math.nan))

    def test_the_noise_of_a_draw_and_of_a_value(self):
        q = TriangularNormal(**full_parameters(100.0, 0.05))
        z = q.rsample()
        assert to_noise(q, z) is q.noise_of_draw(z)
        wide = TriangularNormal(**full_parameters(1.0, 1.0)).expand((4, 3))
        z = wide.sample((2,))
        torch.testing.assert_close(to_noise(wide, z.clone()), wide.noise_of_draw(z), rtol=1e-3, atol=1e-3)


class TestMemory:
    @pytest.mark.parametrize("cls", [TriangularNormal, FactorNormal])
    def test_another_distribution_takes_the_noise(self, cls, double):
        """Value and derivatives are those of torch's at a given value, with respect to the value as well."""
        full = cls is TriangularNormal
        make, theirs = (
            (full_parameters, dist.MultivariateNormal) if full else (factor_parameters, dist.LowRankMultivariateNormal)
        )
        parameters = make(0.7, 0.5, dim=3)
        drawn = cls(**parameters).to_event(1).mask(torch.tensor(True))
        torch.manual_seed(0)
        z = drawn.rsample((2,))
        found = []
        for each in (cls, theirs):
            again, value = with_gradients(parameters), z.detach().clone().requires_grad_()
            q = each(**again).to_event(1)
            remember(q, value, noise_of_draw(drawn, z))
            log_q = q.log_prob(value)
            found.append([log_q, *torch.autograd.grad(log_q.sum(), [value, *again.values()])])
        if full:
            found = [[*each[:-1], each[-1].tril()] for each in found]
        for ours, expected in zip(*found, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)

    def test_a_slope_beyond_all_numbers_leaves_the_density_finite(self):
        q = TriangularNormal(**with_gradients(full_parameters(1e4, 1e-3, dim=60)))
        z = q.sample()
        log_q = q.log_prob(z)
        assert torch.isfinite(log_q).all()
        assert not torch.isfinite(torch.autograd.grad(log_q.sum(), q.loc)[0]).all()  # and it is seen

    def test_only_gaussians_that_remember(self):
        q = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        z = q.rsample()
        remember(q, z, torch.zeros(3))
        assert noise_of_draw(q, z) is None

    @pytest.mark.parametrize("cls", [TriangularNormal, FactorNormal])
    def test_draws_are_torchs(self, cls):
        full = cls is TriangularNormal
        parameters = (full_parameters if full else factor_parameters)(1.0, 0.5)
        theirs = (dist.MultivariateNormal if full else dist.LowRankMultivariateNormal)(**parameters)
        values = []
        for q in (cls(**parameters), theirs):
            torch.manual_seed(0)
            values.append(q.sample((4,)))
        assert torch.equal(*values)

    @torch.inference_mode()
    def test_in_inference_mode(self):
        q = TriangularNormal(**full_parameters(100.0, 0.05))
        assert q.log_prob(q.sample()).mean().item() == pytest.approx(-q.entropy().mean().item(), abs=15)
