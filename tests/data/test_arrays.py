"""Arrays of data: what is refused before anything runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_vae.data.arrays import check_array


class TestCheckArray:
    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            ([1.0], TypeError, "pixels: found list, expected a tensor or a NumPy array"),
            (np.array(["a"]), TypeError, "pixels: found dtype <U1, expected real numbers"),
            (np.array([None]), TypeError, "pixels: found dtype object, expected real numbers"),
            (np.ones(3, dtype=complex), TypeError, "pixels: found dtype complex128, expected real numbers"),
            (
                torch.ones(3, dtype=torch.complex64),
                TypeError,
                "pixels: found dtype torch.complex64, expected real numbers",
            ),
            (
                np.array(["2020-01-01"], dtype="M8[D]"),
                TypeError,
                "pixels: found dtype datetime64.D., expected real numbers",
            ),
            (torch.ones(0, 28, 28), ValueError, r"found shape \(0, 28, 28\), expected .* with N of 1 or more"),
            (np.ones((5, 0)), ValueError, r"pixels: found shape \(5, 0\), expected data "),
            (torch.tensor(1.0), ValueError, r"pixels: found shape \(\), expected data \(N, \*data_shape\) "),
            (np.array(1.0), ValueError, r"pixels: found shape \(\), expected data "),
        ],
    )
    def test_refuses(self, x, error, message):
        with pytest.raises(error, match=message):
            check_array(x, "pixels")

    @pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
    @pytest.mark.parametrize(("bad", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
    def test_says_where_the_first_number_that_is_not_finite_lies(self, kind, bad, shown):
        x = torch.zeros(5, 28, 28)
        x[3, 14, 7] = x[3, 14, 8] = x[4, 0, 0] = bad
        with pytest.raises(ValueError, match=rf"found {shown} at index \(3, 14, 7\) of shape \(5, 28, 28\), expected"):
            check_array(kind(x), "x")

    def test_returns_the_numbers_without_their_graph(self):
        x = torch.ones(3, 2, requires_grad=True)
        assert not check_array(x, "x").requires_grad
        assert torch.equal(check_array(np.arange(6).reshape(3, 2), "x"), torch.arange(6).reshape(3, 2))
        assert check_array(np.ones(3, dtype=np.uint16), "x").dtype == torch.int64
