"""Splits and batches: what is drawn, where it lies, and which mistakes are caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_vae.data.arrays import check_array
from pyro_vae.data.batches import Batches
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.split import Split


def batches_of(data, batch_size=4, *, device="cpu", dtype=torch.float32, shuffle=False) -> Batches:
    return as_batches(data, batch_size, device=device, dtype=dtype, shuffle=shuffle)


def grey(n=10, binarize=None) -> Split:
    """Bytes 0, 1, 2, ... in images of 2 x 3."""
    return Split((torch.arange(6 * n) % 256).byte().reshape(n, 2, 3), levels=255, binarize=binarize)


class Squares(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.tensor([index, index**2], dtype=torch.uint8)


class Stream(IterableDataset):
    def __iter__(self):
        return (torch.tensor([float(i)]) for i in range(5))


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


class TestBatchesOfASplit:
    def test_in_order(self):
        x = list(grey().batches(4, shuffle=False))
        assert [len(batch) for batch in x] == [4, 4, 2]
        assert torch.equal(torch.cat(x), grey()[:])
        assert [len(batch) for batch in grey().batches(4, shuffle=False, drop_last=True)] == [4, 4]
        assert [len(batch) for batch in grey().batches(5, drop_last=True)] == [5, 5]

    def test_shuffled_by_the_global_cpu_generator_when_iteration_starts(self):
        split = Split(torch.arange(50).reshape(50, 1))
        epoch = split.batches(20)
        torch.manual_seed(4)
        order = torch.cat(list(epoch)).flatten()
        torch.manual_seed(4)
        assert torch.equal(order, torch.randperm(50).float())
        assert not torch.equal(order, torch.cat(list(split.batches(20))).flatten())

    def test_mistakes_are_raised_at_the_call(self):
        with pytest.raises(ValueError, match="batch_size: found 0, expected 1 or more"):
            grey().batches(0)


class TestAsBatches:
    @pytest.mark.parametrize("shuffle", [False, True])
    @pytest.mark.parametrize(
        "data",
        [
            torch.arange(20.0).reshape(10, 2),
            torch.arange(20.0, dtype=torch.float64).reshape(10, 2),
            torch.arange(20, dtype=torch.uint8).reshape(10, 2),
            np.arange(20, dtype=np.int64).reshape(10, 2),
            np.arange(20, dtype=np.uint16).reshape(10, 2),
            np.arange(20, dtype=">f4").reshape(10, 2),
            np.broadcast_to(np.arange(20.0).reshape(10, 2), (10, 2)),  # read-only
            np.arange(20.0).reshape(10, 2)[::-1][::-1],
            Split(torch.arange(20).reshape(10, 2)),
            TensorDataset(torch.arange(20.0).reshape(10, 2), torch.zeros(10)),
        ],
        ids=lambda data: f"{type(data).__name__}-{getattr(data, 'dtype', '')}",
    )
    def test_every_kind_gives_all_data_once_an_epoch(self, data, shuffle):
        batches = batches_of(data, 4, shuffle=shuffle)
        assert (len(batches), batches.num_data) == (3, 10)
        torch.manual_seed(5)
        epochs = [list(batches), list(batches)]
        for epoch in epochs:
            assert [tuple(x.shape) for x in epoch] == [(4, 2), (4, 2), (2, 2)]
            assert all(x.dtype == torch.float32 for x in epoch)
            rows = torch.cat(epoch)
            assert torch.equal(rows.sort(0).values, torch.arange(20.0).reshape(10, 2))
        assert torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1])) != shuffle

    def test_plain_numbers_are_not_scaled_and_those_of_a_split_are(self):
        values = torch.tensor([[0, 255]], dtype=torch.uint8)
        assert next(iter(batches_of(values))).tolist() == [[0.0, 255.0]]
        assert next(iter(batches_of(Split(values, levels=255)))).tolist() == [[0.0, 1.0]]
        assert next(iter(batches_of(np.array([[False, True]])))).tolist() == [[0.0, 1.0]]

    def test_double_precision_is_kept(self):
        x = torch.full((3, 1), 1 / 3, dtype=torch.float64)
        assert torch.equal(next(iter(batches_of(x, dtype=torch.float64))), x)
        assert torch.equal(next(iter(batches_of(Split(x), dtype=torch.float64))), x)

    def test_a_map_style_data_set(self):
        batches = batches_of(Squares(10))
        assert (len(batches), batches.num_data) == (3, 10)
        assert next(iter(batches)).tolist() == [[0, 0], [1, 1], [2, 4], [3, 9]]
        torch.manual_seed(6)
        assert next(iter(batches_of(Squares(10), 10, shuffle=True)))[:, 0].tolist() != list(range(10))

    def test_a_loader_keeps_its_own_batch_size_and_order(self):
        loader = DataLoader(TensorDataset(torch.arange(10).reshape(10, 1), torch.zeros(10)), batch_size=3)
        batches = batches_of(loader, 7, shuffle=True, dtype=torch.float64)
        assert (len(batches), batches.num_data) == (4, 10)
        assert [x.flatten().tolist() for x in batches] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
        assert next(iter(batches)).dtype == torch.float64

    @pytest.mark.parametrize("data", [Stream(), DataLoader(Stream(), batch_size=4)])
    def test_an_iterable_data_set_has_no_length(self, data):
        batches = batches_of(data, 4, shuffle=True)
        assert batches.num_data is None
        with pytest.raises(TypeError):
            len(batches)
        assert [x.flatten().tolist() for x in batches] == [[0, 1, 2, 3], [4]] == [x.flatten().tolist() for x in batches]

    def test_resident_data_are_never_fetched_one_by_one(self, monkeypatch):
        monkeypatch.setattr(Split, "__getitem__", lambda self, index: pytest.fail("fetched one by one"))
        for data in (grey(), torch.ones(10, 2), np.ones((10, 2))):
            assert len(list(batches_of(data, shuffle=True))) == 3

    def test_resident_bytes_stay_bytes_on_the_device(self):
        for data in (torch.ones(10, 2).byte(), grey()):
            batches = batches_of(data, device="meta", shuffle=True)
            assert batches._source.values.dtype == torch.uint8
            assert batches._source.device.type == "meta"
            assert all(x.device.type == "meta" and x.dtype == torch.float32 for x in batches)

    def test_batches_come_back_as_they_are(self):
        batches = batches_of(grey())
        assert batches_of(batches, 7, device="meta", shuffle=True) is batches

    def test_resident_says_whether_the_data_lie_on_the_device(self):
        assert batches_of(grey()).resident
        assert batches_of(torch.ones(3, 2)).resident
        assert not batches_of(Squares(3)).resident
        assert not batches_of(DataLoader(grey())).resident

    def test_a_split_already_there_is_not_copied(self):
        split = grey()
        assert batches_of(split)._source is split

    def test_batches_of_a_loader_move_to_the_device(self):
        (x,) = batches_of(DataLoader(Squares(2), batch_size=2), device="meta", dtype=torch.bfloat16)
        assert (x.device.type, x.dtype) == ("meta", torch.bfloat16)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_on_cuda_the_order_is_that_of_the_cpu_generator(self):
        data, epochs = torch.arange(50).reshape(50, 1), []
        for device in ("cpu", "cuda"):
            torch.manual_seed(7)
            epochs.append(torch.cat(list(batches_of(data, device=device, shuffle=True))))
        assert epochs[1].device.type == "cuda"
        assert torch.equal(epochs[0], epochs[1].cpu())
        bits = next(iter(batches_of(grey(40, "dynamic"), 40, device="cuda")))
        assert set(bits.unique().tolist()) == {0.0, 1.0}

    @pytest.mark.parametrize(
        ("data", "found"), [([1.0, 2.0], "list"), ("mnist", "str"), (None, "NoneType"), ({"x": 1}, "dict")]
    )
    def test_other_kinds_are_refused(self, data, found):
        with pytest.raises(
            TypeError, match=rf"found {found}, expected a tensor, a NumPy array, a Dataset, a DataLoader .*\.train"
        ):
            batches_of(data)

    def test_other_kinds_of_batch_are_refused(self):
        loader = DataLoader([{"x": 1.0}], batch_size=1)
        with pytest.raises(
            TypeError, match="^batch: found dict, expected a tensor, or a tuple or list that starts with one$"
        ):
            next(iter(batches_of(loader)))

    def test_other_mistakes_are_raised_at_the_call(self):
        with pytest.raises(ValueError, match="batch_size: found -1, expected 1 or more"):
            batches_of(torch.ones(3, 2), -1)
        with pytest.raises(ValueError, match=r"data: found nan at index \(1, 0\) of shape .*, expected finite numbers"):
            batches_of(torch.tensor([[0.0], [math.nan]]))


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
