"""A split: what is read from it, what it says of its values, and which mistakes are caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_vae.data.split import Split
from tests.support.batches import batches_of, grey


class TestReading:
    def test_grey_levels_become_floats_between_0_and_1(self):
        split = grey()
        expected = split.values.double() / 255
        for index in (3, -1, slice(2, 7), [1, 4], torch.tensor([9, 0]), np.array([5])):
            assert split[index].dtype == torch.float32
            torch.testing.assert_close(split[index].double(), expected[index], rtol=1e-7, atol=0)
        assert split[3].shape == (2, 3)
        assert (len(split), split.shape, split.data_shape, split.device) == (
            10,
            (10, 2, 3),
            (2, 3),
            torch.device("cpu"),
        )

    def test_indices_outside_the_data_or_into_a_datum_are_refused(self):
        with pytest.raises(IndexError):
            grey()[10]
        with pytest.raises(TypeError, match=r"index: found the tuple \(0, 1\), expected .* first dimension alone"):
            grey()[0, 1]

    def test_dynamic_pixels_are_bernoulli_draws_from_the_grey_levels(self):
        # One pixel for each of the 17 grey levels, 40,000 draws. A mean more than 5.5 standard errors off has
        # probability 4e-8 a level, so a correct sampler fails with probability 7e-7 over the choice of seed.
        n = 40_000
        split = Split(torch.arange(17, dtype=torch.uint8).expand(n, 17), levels=16, binarize="dynamic")
        torch.manual_seed(1)
        x = split[:]
        assert set(x.unique().tolist()) == {0.0, 1.0}
        p = torch.arange(17) / 16
        error = (x.mean(0) - p).abs()
        assert (error <= 5.5 * (p * (1 - p) / n).sqrt()).all(), error  # so grey 0 and 16 are never wrong
        # and pixels are drawn independently: neighbouring levels 8 and 9 are uncorrelated within the same bound
        assert abs(torch.corrcoef(x[:, 8:10].T)[0, 1]) < 5.5 / math.sqrt(n)

    def test_black_is_never_white_however_small_the_draw(self, monkeypatch):
        monkeypatch.setattr(torch, "rand_like", torch.zeros_like)  # a float32 draw is 0 once in 2**24 times
        split = Split(torch.tensor([[0, 1]], dtype=torch.uint8), levels=255, binarize="dynamic")
        assert split[:].tolist() == [[0.0, 1.0]]

    def test_dynamic_pixels_are_drawn_anew_at_each_use_from_the_global_generator(self):
        split = grey(40, "dynamic")
        torch.manual_seed(2)
        first, second = split[:], split[:]
        assert not torch.equal(first, second)
        torch.manual_seed(2)
        assert torch.equal(first, split[:])

    def test_half_precision_does_not_round_the_probabilities(self):
        # 0.999 is 1 in bfloat16: then none of 100,000 pixels would be 0. Correctly that has probability exp(-100).
        split = Split(torch.full((100_000, 1), 0.999), binarize="dynamic")
        torch.manual_seed(3)
        (x,) = batches_of(split, 100_000, dtype=torch.bfloat16)
        assert x.dtype == torch.bfloat16
        assert (x == 0).any()

    @pytest.mark.parametrize("values", [torch.ones(4, 2), torch.ones(4, 2).byte()])
    def test_writing_to_what_was_read_leaves_the_data_alone(self, values):
        split = Split(values)
        for x in (split[0], split[:], *split.batches(2, shuffle=False), *split.batches(2)):
            x.zero_()
        assert (split.values == 1).all()

    def test_numpy_reads_a_split(self):
        array = np.asarray(grey())
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, np.arange(60).reshape(10, 2, 3) / 255, rtol=1e-6)
        assert np.asarray(grey(), dtype=np.float64).dtype == np.float64
        with pytest.raises(ValueError, match="copy: found False, expected True or None"):
            grey().__array__(copy=False)

    def test_a_data_loader_reads_a_split(self):
        x = torch.cat(list(DataLoader(grey(), batch_size=4)))
        assert torch.equal(x, grey()[:])
        bits = next(iter(DataLoader(grey(40, "dynamic"), batch_size=40, shuffle=True)))
        assert bits.shape == (40, 2, 3)
        assert set(bits.unique().tolist()) == {0.0, 1.0}


class TestSplit:
    def test_to_shares_no_memory(self):
        split = Split(torch.ones(3, 2), labels=torch.arange(3), levels=1, binarize="dynamic")
        copy = split.to("cpu")
        copy.values.zero_()
        copy.labels.zero_()
        assert split.values.sum() == 6
        assert split.labels.tolist() == [0, 1, 2]
        assert copy.binarize == "dynamic"

    def test_to_moves_values_and_labels(self):
        split = Split(torch.ones(3, 2).byte(), labels=torch.arange(3), levels=16).to("meta")
        assert split.device.type == split.labels.device.type == split[0].device.type == "meta"
        assert (split.levels, split.binarize) == (16, None)

    def test_mistakes_in_the_constructor_are_named(self):
        with pytest.raises(
            ValueError, match=r"binarize: found 'random', expected one of .*'dynamic', 'static', 'threshold'"
        ):
            Split(torch.ones(3, 2), binarize="random")
        with pytest.raises(ValueError, match="found 2 labels for 3 data"):
            Split(torch.ones(3, 2), labels=torch.arange(2))

    def test_repr_says_what_the_values_are(self):
        assert repr(grey()) == "Split(10 x (2, 3), grey levels 0..255, on cpu)"
        assert repr(grey(10, "dynamic")) == "Split(10 x (2, 3), grey levels 0..255 binarised at each use, on cpu)"
        assert repr(Split(torch.ones(3, 2))) == "Split(3 x (2,), values as given, on cpu)"
        assert repr(Split(torch.ones(3, 2), binarize="static")) == "Split(3 x (2,), bits drawn once, on cpu)"
        assert repr(Split(torch.ones(3, 2), binarize="threshold")) == "Split(3 x (2,), thresholded, on cpu)"

    @pytest.mark.parametrize("binarize", [None, "dynamic"])
    def test_mean_is_that_of_the_grey_levels(self, binarize):
        split = grey(50, binarize)
        expected = (split.values.double() / 255).mean(0).float()
        torch.testing.assert_close(split.mean(), expected, rtol=1e-6, atol=0)
        assert split.mean().shape == (2, 3)

    def test_pixel_entropy_is_the_binary_entropy_summed_over_pixels(self):
        h = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)  # noqa: E731
        split = Split(torch.tensor([[0, 4, 8], [16, 16, 12]], dtype=torch.uint8), levels=16)
        assert split.pixel_entropy() == pytest.approx((h(0.25) + h(0.5) + h(0.75)) / 2, rel=1e-12)
        many = Split(torch.full((2_500, 2), 0.25))  # more than one chunk
        assert many.pixel_entropy() == pytest.approx(2 * h(0.25), rel=1e-12)

    @pytest.mark.parametrize(
        "split",
        [
            Split(torch.ones(3, 2), binarize="static"),
            Split(torch.ones(3, 2), binarize="threshold"),
            Split(torch.ones(3, 2).byte()),
        ],
    )
    def test_pixel_entropy_needs_grey_levels(self, split):
        with pytest.raises(
            ValueError, match=r"pixel_entropy: found Split\(.*\), expected grey levels: load with binarize=None"
        ):
            split.pixel_entropy()

    def test_pixel_entropy_needs_probabilities(self):
        with pytest.raises(
            ValueError, match=r"pixel_entropy: found values from -1 to 2.5, expected values in \[0, 1\]"
        ):
            Split(torch.tensor([[-1.0, 2.5]])).pixel_entropy()
