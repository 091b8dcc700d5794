"""Arrays of data: what is refused before anything runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import pyro_vae
from pyro_vae.data.arrays import check_array, check_exact
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.loading import load


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

    def test_of_nan_it_says_how_missing_entries_are_taken(self):
        x = torch.zeros(5, 2)
        x[3, 1] = math.nan
        way = r"expected finite numbers; .*pyro_vae.pack\(x\).*pyro_vae.observed_only$"
        with pytest.raises(ValueError, match=rf"^x: found nan at index \(3, 1\) of shape \(5, 2\), {way}"):
            check_array(x, "x")
        with pytest.raises(ValueError, match=rf"^x: found nan at index \(103, 1\), {way}"):
            check_array(x, "x", start=100)
        with pytest.raises(ValueError, match="expected finite numbers$"):
            check_array(torch.full((1,), math.inf), "x")

    @pytest.mark.parametrize(
        ("x", "way"),
        [
            ([1.0], r"; torch.tensor\(x\) makes a tensor of numbers in lists$"),
            ("digits", r"; pyro_vae.data.load\(x\) reads a name, a file or a folder$"),
            (np.array([None]), r"; x.astype\(float\) converts .*pyro_vae.Table.from_frame takes categories$"),
            (np.array(["a"]), "; categories are taken as columns of a frame by pyro_vae.Table.from_frame$"),
            (np.array(["2020"], "M8[Y]"), "expected real numbers$"),
            ({1.0}, "expected a tensor or a NumPy array$"),
        ],
    )
    def test_says_what_to_do(self, x, way):
        with pytest.raises(TypeError, match=way):
            check_array(x, "x")

    def test_of_other_kinds_of_arrays_too(self):
        class Foreign:
            def __array__(self):
                return np.zeros(3)

        with pytest.raises(
            TypeError, match=r"expected a tensor or a NumPy array; np.asarray\(x\) makes an array of it$"
        ):
            check_array(Foreign(), "x")
        with pytest.raises(ValueError, match=r"^name: found a tensor of .*, sparse, .*; x.to_dense\(\) is dense$"):
            load(torch.eye(20).to_sparse())

    def test_returns_the_numbers_without_their_graph(self):
        x = torch.ones(3, 2, requires_grad=True)
        assert not check_array(x, "x").requires_grad
        assert torch.equal(check_array(np.arange(6).reshape(3, 2), "x"), torch.arange(6).reshape(3, 2))
        assert check_array(np.ones(3, dtype=np.uint16), "x").dtype == torch.int64


class TestNumbersThatFloat32DoesNotHold:
    """Whole numbers of every type are exact or refused, by every way into a program, and none overflows."""

    LARGE = np.array([[3.0, 16777217.0], [1.0, 2.0]] * 10)
    WHOLE = r": found the whole number 16777217 among whole numbers, which torch.float32 rounds to 16777216, expected"

    @pytest.fixture
    def vae(self):
        network = pyro_vae.MLP(1, (2,))
        return pyro_vae.VAE((2,), 1, (3,), pyro_vae.Poisson(network, (2,), high=1e9))

    @staticmethod
    def calls(vae):
        return {
            "encode": vae.encode,
            "log_likelihood": lambda x: pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles=2),
            "score": lambda x: pyro_vae.score(vae.model, vae.guide, x, num_particles=2),
            "fit": lambda x: pyro_vae.fit(vae.model, vae.guide, x, num_epochs=1, batch_size=10, progress=False),
        }

    @pytest.mark.parametrize("call", ["encode", "log_likelihood", "score", "fit"])
    def test_whole_numbers(self, vae, call):
        run = self.calls(vae)[call]
        for x in (self.LARGE, torch.from_numpy(self.LARGE), load(self.LARGE).train, DataLoader(self.LARGE)):
            with pytest.raises(ValueError, match=self.WHOLE):
                run(x)
        whole = self.LARGE.astype(np.int64)
        for x in (whole, load(whole).train, DataLoader(whole)):
            with pytest.raises(ValueError, match=": found the whole number 16777217, expected at most 16777216, from"):
                run(x)

    def test_a_frame(self, vae):
        frame = pytest.importorskip("pandas").DataFrame(self.LARGE.astype(np.int64), columns=["a", "b"])
        with pytest.raises(ValueError, match=self.WHOLE):
            self.calls(vae)["fit"](load(frame))

    @pytest.mark.parametrize("call", ["encode", "log_likelihood", "score", "fit"])
    def test_what_would_overflow(self, call):
        network = pyro_vae.MLP(1, (2,))
        vae = pyro_vae.VAE((2,), 1, (3,), pyro_vae.Gaussian(network, (2,), scale="fixed"))
        x = np.random.default_rng(0).normal(size=(20, 2))
        x[3, 1] = -1e39
        expected = (
            r": found the value -1e\+39, expected at most 3.40282e\+38 in size, the largest that torch.float32 holds"
        )
        for data in (x, DataLoader(x)):
            with pytest.raises(ValueError, match=expected):
                self.calls(vae)[call](data)

    def test_what_is_taken(self):
        for x in (
            self.LARGE + 0.5,  # measurements, which are rounded as ever
            np.array([2.0**24, 2.0**25, 2.0**30]),
            np.array([[1e300]]) * 1e-270,
            np.zeros((0, 2)),
        ):
            check_exact(torch.from_numpy(x), torch.float32, "x")
        check_exact(torch.from_numpy(self.LARGE), torch.float64, "x")
        check_exact(torch.from_numpy(self.LARGE).float(), torch.float32, "x")

    def test_several_entries_by_name(self):
        def program(x, y):
            raise AssertionError("is not run")

        for data in ((self.LARGE, np.arange(20)), {"x": self.LARGE, "y": np.arange(20)}):
            with pytest.raises(ValueError, match=r"^data\[('x'|0)\]" + self.WHOLE):
                as_batches(data, 5, device="cpu", dtype=torch.float32, shuffle=False, programs=(program, program))
        keys = (np.zeros((20, 2)), np.full(20, 2**40))  # integers of several entries keep their type
        batches = as_batches(keys, 5, device="cpu", dtype=torch.float32, shuffle=False, programs=(program, program))
        assert next(iter(batches)).args[1].tolist() == [2**40] * 5
