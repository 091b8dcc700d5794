"""Signals and second derivatives in closed form and in chunks, against all K bounds at once, a tensor of K x K x B."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from pyro_vae import IWAE, MIWAE, Objective
from pyro_vae.objectives import gradients
from pyro_vae.objectives.gradients import curvature, learning_signal
from pyro_vae.objectives.reductions import closed_form
from tests.support.every_objective import BOUNDS, EXTREMES

ALL = BOUNDS | EXTREMES
K, B = 6, 40


def guide_bound(objective):
    return objective.reduce_for_guide if objective._has_two_bounds else objective.reduce


def signals(reduce, log_w):
    """The definition: the bound minus that with each weight in turn replaced by the mean of the possible others."""
    bound, rows = reduce(log_w), []
    for k in range(len(log_w)):
        others = torch.cat([log_w[:k], log_w[k + 1 :]])
        is_possible = others > -math.inf
        mean = torch.where(is_possible, others, 0.0).sum(0) / is_possible.sum(0)
        replaced = log_w.clone()
        replaced[k] = torch.where(is_possible.any(0), mean, -math.inf)
        baseline = reduce(replaced)
        rows.append(bound - torch.where(baseline > -math.inf, baseline, 0.0))
    return torch.stack(rows)


def second_derivatives(reduce, log_w):
    rows = [torch.autograd.functional.hessian(lambda w: reduce(w[:, None])[0], column) for column in log_w.T]
    return torch.stack(rows).diagonal(dim1=1, dim2=2).T


def cases(dtype=torch.float64):
    """Log weights ``(K, B)``, by what is extreme about them."""
    torch.manual_seed(0)
    normal = torch.randn(K, B, dtype=torch.float64)
    one_large, ties, impossible = normal.clone(), normal.clone(), normal.clone()
    one_large[torch.arange(B) % K, torch.arange(B)] += torch.linspace(0, 60, B).double()
    ties[1] = ties[4] = normal.amax(0)
    impossible[torch.rand(K, B) < 0.5] = -math.inf
    impossible[:, 0], impossible[1:, 1], impossible[:3, 2], impossible[1:, 3] = -math.inf, -math.inf, -math.inf, 0.0
    found = {
        "random": normal,
        "small differences": 1e-3 * normal,
        "far from zero": normal - 90,
        "one large": one_large,
        "ties": ties,
        "all the same": torch.zeros(K, B, dtype=torch.float64),
        "a wide spread": 100 * normal,
        "impossible draws": impossible,
    }
    return {name: log_w.to(dtype) for name, log_w in found.items()}


CASES = cases()


class TestSignals:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("name", ALL)
    def test_closed_forms(self, name, case):
        reduce, log_w = guide_bound(ALL[name](K)), CASES[case]
        assert closed_form(reduce, "signal") is not None
        expected = signals(reduce, log_w)
        scale = max(1.0, expected[expected.isfinite()].abs().max().item())  # of their rounding
        torch.testing.assert_close(learning_signal(reduce, log_w), expected, rtol=1e-12, atol=1e-12 * scale)
        assert torch.equal(learning_signal(reduce, log_w).isfinite(), expected.isfinite())

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("name", ALL)
    def test_single_precision_is_enough(self, name, case):
        """To within some roundings of each weight's share: the closed forms subtract no two bounds."""
        reduce = guide_bound(ALL[name](K))
        log_w = cases(torch.float32)[case]
        expected = learning_signal(reduce, log_w.double())
        spread = log_w[log_w > -math.inf].max() - log_w[log_w > -math.inf].min()
        eps = 8 * torch.finfo(torch.float32).eps
        found = learning_signal(reduce, log_w).double()
        possible = expected.isfinite() & ~_whole(reduce, log_w.double())
        torch.testing.assert_close(found[possible], expected[possible], rtol=eps, atol=eps * (1 + spread.item()))
        assert torch.equal(found.isfinite(), expected.isfinite())

    @pytest.mark.parametrize("name", ALL)
    def test_the_largest_of_many_weights_keeps_its_digits(self, name):
        """A weight of 1 - 1e-10 of the sum: the sum without it, computed as a difference, would be wrong by 1e-6."""
        log_w = torch.tensor([25.0, 0.0, 1.0, -1.0]).double()[:, None]
        reduce = guide_bound(ALL[name](4))
        torch.testing.assert_close(learning_signal(reduce, log_w), signals(reduce, log_w), rtol=1e-14, atol=1e-14)

    @pytest.mark.parametrize("name", ALL)
    def test_where_a_weight_is_not_a_number_no_signal_is(self, name):
        log_w = CASES["random"].clone()
        log_w[2, 0] = math.nan
        found = learning_signal(guide_bound(ALL[name](K)), log_w)
        assert found[:, 0].isnan().all() and found[:, 1:].isfinite().all()

    def test_alpha_next_to_one(self):
        """The power mean of almost 1: powers of weights differ by 1e-9, and their difference has to have digits."""
        log_w = CASES["random"]
        found = learning_signal(BOUNDS["ELBO"](K).reduce, log_w)
        for alpha in (1 - 1e-9, 1 + 1e-9):
            near = learning_signal(ALL["Renyi(0.5)"](K).__class__(alpha, K).reduce, log_w)
            torch.testing.assert_close(near, found, rtol=0, atol=1e-8)


def _whole(reduce, log_w):
    """Where the signal is the bound itself, which has the rounding of a number far from zero."""
    return learning_signal(reduce, log_w) == reduce(log_w)


class TestOtherReductions:
    """A bound of somebody's own, which defines ``reduce`` alone."""

    class Squares(Objective):
        def reduce(self, log_w):
            return (log_w.logsumexp(0) - math.log(len(log_w))) + 0.1 * log_w.mean(0).square()

    @pytest.mark.parametrize("chunk", [1, 100, 2 * K * B, K * K * B - 1, 2**24])
    @pytest.mark.parametrize("case", ["random", "one large", "ties", "a wide spread"])
    def test_chunks(self, monkeypatch, case, chunk):
        monkeypatch.setattr(gradients, "_CHUNK", chunk)
        reduce, log_w = self.Squares(K).reduce, CASES[case]
        torch.testing.assert_close(learning_signal(reduce, log_w), signals(reduce, log_w), rtol=1e-12, atol=1e-12)
        second = second_derivatives(reduce, log_w)
        torch.testing.assert_close(curvature(reduce, log_w), second, rtol=1e-12, atol=1e-12)

    def test_impossible_draws(self, monkeypatch):
        monkeypatch.setattr(gradients, "_CHUNK", 2 * K * B)
        log_w = CASES["impossible draws"]
        for name in ALL:
            bound = guide_bound(ALL[name](K))
            plain = functools.partial(bound)
            assert closed_form(plain, "signal") is None
            torch.testing.assert_close(learning_signal(plain, log_w), signals(bound, log_w), rtol=1e-12, atol=1e-12)

    def test_a_chunk_has_no_more_numbers_than_it_may(self, monkeypatch):
        monkeypatch.setattr(gradients, "_CHUNK", 2 * K * B)
        sizes = []

        def reduce(log_w):
            sizes.append(log_w.numel())
            return log_w.logsumexp(0)

        learning_signal(reduce, CASES["random"])
        assert sizes == [K * B, *[2 * K * B] * 3]

    def test_another_reduction_has_another_signal(self):
        """Whatever it is derived from: a closed form is that of one reduction."""

        class Doubled(IWAE):
            @functools.wraps(IWAE.reduce)  # which copies the marks
            def reduce(self, log_w):
                return 2 * super().reduce(log_w)

        class Tighter(MIWAE):
            def reduce_for_guide(self, log_w):
                return 2 * log_w.logsumexp(0)

        class Mixed:
            def reduce(self, log_w):
                return 2 * log_w.logsumexp(0)

        class Inherited(Mixed, IWAE):
            pass

        log_w = CASES["random"]
        expected = 2 * learning_signal(IWAE(K).reduce, log_w)
        second = 2 * curvature(IWAE(K).reduce, log_w)
        patched = IWAE(K)
        patched.reduce = lambda log_w: 2 * log_w.logsumexp(0)
        for objective in (Doubled(K), Tighter(2, K // 2), Inherited(K), patched):
            torch.testing.assert_close(learning_signal(guide_bound(objective), log_w), expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(curvature(guide_bound(objective), log_w), second, rtol=0, atol=1e-12)


class TestCurvature:
    @pytest.mark.parametrize("case", [case for case in CASES if case != "impossible draws"])
    @pytest.mark.parametrize("name", BOUNDS)
    def test_closed_forms(self, name, case):
        reduce, log_w = guide_bound(BOUNDS[name](K)), CASES[case]
        assert name == "ELBO" or closed_form(reduce, "curvature") is not None
        expected = second_derivatives(reduce, log_w)
        torch.testing.assert_close(curvature(reduce, log_w), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_fifty_thousand_particles(name):
    """Of K² B numbers these would be 40 GB; the closed forms hold against a few particles by the definition."""
    many = 50_000
    torch.manual_seed(0)
    log_w = 3 * torch.randn(many, 2, dtype=torch.float64)
    reduce = guide_bound(ALL[name](many))
    found = learning_signal(reduce, log_w)
    assert found.shape == (many, 2)
    for k in (0, 17, int(log_w[:, 0].argmax()), int(log_w[:, 1].argmin())):
        replaced = log_w.clone()
        replaced[k] = (log_w.sum(0) - log_w[k]) / (many - 1)
        torch.testing.assert_close(found[k], reduce(log_w) - reduce(replaced), rtol=1e-9, atol=1e-13)
    if name in BOUNDS:
        assert curvature(reduce, log_w).shape == (many, 2)
