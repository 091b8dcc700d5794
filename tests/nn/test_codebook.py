"""A codebook: the nearest code, codes that follow what chose them, dead ones that start again; and codes as vectors."""

from __future__ import annotations

import math
from itertools import product

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae.nn.codebook import ChosenVectors, Codebook, CodeVectors

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
double = pytest.mark.usefixtures("double")


def nearest(z, vectors):
    """By hand, one after another."""
    return torch.tensor([min(range(len(vectors)), key=lambda k: (row - vectors[k]).norm().item()) for row in z])


@double
class TestNearest:
    @pytest.mark.parametrize("batch_shape", [(), (7,), (3, 2, 4)])
    def test_it_is_the_nearest(self, batch_shape):
        codebook = Codebook(30, 3)
        z = torch.randn(*batch_shape, 3)
        codes = codebook(z)
        assert codes.shape == batch_shape and codes.dtype == torch.int64
        assert torch.equal(codes.flatten(), nearest(z.reshape(-1, 3), codebook.vectors))

    def test_of_two_as_near_the_first(self):
        codebook = Codebook(3, 1)
        codebook.vectors.copy_(torch.tensor([[5.0], [1.0], [-1.0]]))
        assert codebook(torch.zeros(2, 1)).tolist() == [1, 1]


def close_to_three(num_data, generator):
    """Vectors around three points far apart, and about which of them each is."""
    points = torch.tensor([[10.0, 0.0], [-10.0, 0.0], [0.0, 10.0]])
    which = torch.randint(3, (num_data,), generator=generator)
    return points[which] + torch.randn(num_data, 2, generator=generator), which


@double
class TestUpdate:
    def test_it_is_the_moving_average(self):
        """Appendix A.1 of the paper, by hand, over several steps."""
        generator = torch.Generator().manual_seed(1)
        codebook = Codebook(3, 2, decay=0.9)
        codebook.vectors.copy_(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]]))
        counts, sums = [0.0] * 3, [torch.zeros(2)] * 3
        for _ in range(6):
            z, which = close_to_three(20, generator)
            codebook.update(z.reshape(4, 5, 2))
            for k in range(3):
                chose = [row for row, j in zip(z, which.tolist(), strict=True) if j == k]
                counts[k] = 0.9 * counts[k] + 0.1 * len(chose)
                sums[k] = 0.9 * sums[k] + 0.1 * sum(chose, torch.zeros(2))
            torch.testing.assert_close(codebook.counts, torch.tensor(counts), **CLOSE)
            expected = torch.stack([total / count for total, count in zip(sums, counts, strict=True)])
            torch.testing.assert_close(codebook.vectors, expected, **CLOSE)

    def test_the_first_puts_each_code_at_a_mean_or_at_a_vector_of_the_batch(self):
        z = torch.cat([torch.randn(20, 2) + 100, torch.randn(20, 2) - 100])
        codebook = Codebook(8, 2)
        codes = codebook(z)
        codebook.update(z)
        for k in range(8):
            if (codes == k).any():
                torch.testing.assert_close(codebook.vectors[k], z[codes == k].mean(0), **CLOSE)
            else:
                assert (codebook.vectors[k] - z).abs().amax(1).min() < 1e-12
        assert len(set(codes.tolist())) < 8

    def test_dead_codes_start_again_and_others_go_on(self):
        codebook = Codebook(3, 2, decay=0.5, restart_below=0.1)
        codebook.counts.copy_(torch.tensor([4.0, 4.0, 0.1]))
        codebook.vectors.copy_(torch.tensor([[10.0, 0.0], [-10.0, 0.0], [0.0, 500.0]]))
        codebook.sums.copy_(codebook.vectors * codebook.counts[:, None])
        z = torch.tensor([[11.0, 0.0]] * 4 + [[-10.0, 1.0]] * 4)
        codebook.update(z)
        torch.testing.assert_close(codebook.vectors[:2], torch.tensor([[10.5, 0.0], [-10.0, 0.5]]), **CLOSE)
        assert (codebook.vectors[2] - z).abs().amax(1).min() < 1e-12
        mean = (4.0 + 4.0 + 0.05) / 3
        torch.testing.assert_close(codebook.counts, torch.tensor([4.0, 4.0, mean]), **CLOSE)

    @pytest.mark.parametrize("count", [0.4, 0.42])
    def test_where_a_code_dies(self, count):
        """Not used at all it loses half: what is left is 0.2 or 0.21 here, and a tenth of the mean lies between."""
        codebook = Codebook(2, 1, decay=0.5, restart_below=0.1)
        codebook.vectors.copy_(torch.tensor([[0.0], [100.0]]))
        codebook.counts.copy_(torch.tensor([3.9, count]))
        codebook.sums.copy_(codebook.vectors * codebook.counts[:, None])
        codebook.update(torch.zeros(4, 1))  # counts become 3.95 and half of count; their mean's tenth is about 0.2077
        assert (codebook.vectors[1, 0].item() == pytest.approx(100.0)) == (count == 0.42)

    def test_new_starts_follow_the_seed(self):
        z = torch.randn(50, 2)
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(7)
            codebook = Codebook(40, 2)
            torch.manual_seed(seed)
            codebook.update(z)
            results.append(codebook.vectors.clone())
        assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])

    def test_a_code_without_use_never_divides_by_zero(self):
        codebook = Codebook(4, 1, decay=0.0)
        for _ in range(5):
            codebook.update(torch.zeros(3, 1))
            assert torch.isfinite(codebook.vectors).all() and (codebook.counts > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_codes": 0}, "num_codes: found 0, expected a positive integer"),
        ({"code_dim": 2.0}, "code_dim: found 2.0, expected a positive integer"),
        ({"decay": 1.0}, r"decay: found 1.0, expected a number in \[0, 1\)"),
        ({"decay": math.nan}, r"decay: found nan, expected a number in \[0, 1\)"),
        ({"restart_below": 0.0}, r"restart_below: found 0.0, expected a number in \(0, 1\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Codebook(**{"num_codes": 3, "code_dim": 2} | arguments)


@double
class TestCodeVectors:
    def make(self, vectors=None):
        logits = torch.randn(2, 3)
        vectors = torch.randn(3, 4) if vectors is None else vectors
        return CodeVectors(dist.Categorical(logits=logits).to_event(1), vectors), logits.softmax(-1)

    def test_it_sums_to_one_and_is_the_probability_of_the_codes(self):
        p, probs = self.make()
        assert p.batch_shape == () and p.event_shape == (2, 4)
        grids = list(product(range(3), repeat=2))
        log_prob = p.log_prob(p.vectors[torch.tensor(grids)])  # (9,)
        expected = torch.stack([probs[0, i] * probs[1, j] for i, j in grids])
        torch.testing.assert_close(log_prob.exp(), expected, **CLOSE)
        torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(()), rtol=0, atol=1e-14)

    def test_what_is_no_code_has_no_probability(self):
        p, _ = self.make()
        z = p.vectors[torch.tensor([[0, 1], [2, 2]])]
        z[1, 0, 0] += 1e-9
        assert torch.isfinite(p.log_prob(z)).tolist() == [True, False]

    def test_codes_that_nearly_coincide_are_told_apart(self):
        """In float32 and far from the origin, where the products of vectors would be rounded to the same."""
        vectors = 1000.0 + 1e-3 * torch.arange(3.0)[:, None].expand(3, 4)
        p, probs = self.make(vectors.float())
        log_prob = p.log_prob(p.vectors[torch.tensor([[0, 1], [1, 2], [2, 0]])])
        expected = torch.stack([probs[0, i] * probs[1, j] for i, j in ((0, 1), (1, 2), (2, 0))])
        torch.testing.assert_close(log_prob.exp(), expected, **CLOSE)

    @pytest.mark.parametrize("validate_args", [True, False])
    def test_draws_are_codes_under_plates(self, validate_args):
        p, _ = self.make()
        p = CodeVectors(p.codes, p.vectors, validate_args=validate_args).expand((5, 6))
        z = p.sample()
        assert z.shape == (5, 6, 2, 4) and p.log_prob(z).shape == (5, 6) and torch.isfinite(p.log_prob(z)).all()
        assert len({tuple(row.tolist()) for row in z.reshape(-1, 4)}) == 3
        if validate_args:
            with pytest.raises(ValueError, match="support"):
                p.log_prob(torch.full((2, 4), torch.nan))


@double
@pytest.mark.parametrize("shape", [(), (6,)])
def test_the_log_density_of_chosen_vectors_enters_their_kl(shape):
    p = CodeVectors(dist.Categorical(torch.full((2, 3), 1 / 3)).to_event(1), torch.randn(3, 4)).expand(shape)
    slope = torch.ones(shape, requires_grad=True)
    q = ChosenVectors(p.sample(), slope - slope.detach(), event_dim=2)
    kl = kl_divergence(q, p)
    torch.testing.assert_close(kl, torch.full(shape, 2 * math.log(3)), **CLOSE)
    (gradient,) = torch.autograd.grad(kl.sum(), slope)
    assert torch.equal(gradient, torch.ones(shape))
    assert type(q.expand((4, *shape))) is ChosenVectors
