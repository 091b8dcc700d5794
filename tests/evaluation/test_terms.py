"""The bounds of each datum: their errors are those of repeated estimates."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vae.evaluation.terms import terms_of
from pyro_vae.inference.pair import ProgramPair
from tests.support.shifted import Shifted


@pytest.mark.parametrize(("shift", "least", "most"), [(0.1, 0.9, 1.15), (3.0, 0.8, 1.6)], ids=["light", "heavy"])
def test_the_error_of_the_iwae_bound_is_that_of_repeated_estimates(double, shift, least, most):
    """Of 600 data that are the same one; heavy weights have a log variance of 129 here, and k above 0.7."""
    shifted = Shifted.by(shift)
    torch.manual_seed(0)
    values, errors = terms_of(ProgramPair(*shifted.pair).isolated(), shifted.copies(600).double(), 50).iwae
    assert least < errors.square().mean().sqrt() / values.std() < most


def test_the_jackknife_by_hand(double):
    """Two weights: each is left out in turn, and their order plays no part."""
    shifted = Shifted.by(1.0)
    programs = ProgramPair(*shifted.pair).isolated()
    torch.manual_seed(0)
    terms = terms_of(programs, shifted.x, 2)
    (mean, error), (elbo, half) = terms.iwae, terms.elbo  # elbo ± half are the two log weights
    first, second = elbo + half, elbo - half
    bound = torch.logaddexp(first, second) - math.log(2)
    torch.testing.assert_close(mean, bound)
    torch.testing.assert_close(error, ((first - bound).square() + (second - bound).square()).div(2).sqrt())
