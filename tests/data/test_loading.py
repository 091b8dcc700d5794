"""Loading: which data are in which split, which bits they become, and which mistakes are named."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.data.loading import load


class TestSplits:
    def test_digits_are_split_as_documented(self):
        sklearn_datasets = pytest.importorskip("sklearn.datasets")
        images, labels = sklearn_datasets.load_digits(return_X_y=True)
        splits = load("digits", binarize=None)
        parts = (splits.train, splits.valid, splits.test)
        assert [len(part) for part in parts] == [1_297, 250, 250]
        assert (splits.name, splits.data_shape) == ("digits", (8, 8))
        order = np.random.RandomState(0).permutation(1_797)
        stored = torch.cat([part.values for part in parts]).reshape(-1, 64)
        np.testing.assert_array_equal(stored, images[order])
        np.testing.assert_array_equal(torch.cat([part.labels for part in parts]), labels[order])
        assert all(part.labels.dtype == torch.int64 and part.values.dtype == torch.uint8 for part in parts)
        assert torch.equal(splits.test[0], splits.test.values[0] / 16)

    def test_the_held_out_digits_are_these_for_ever(self):
        # Published numbers depend on these bits: whatever changes them changes the data set.
        pytest.importorskip("sklearn")
        splits = load("digits")
        assert splits.test.labels[:12].tolist() == [1, 0, 5, 6, 6, 8, 0, 7, 0, 4, 2, 6]
        assert int(splits.valid.values.sum()) == 4_877
        assert int(splits.test.values.sum()) == 4_906
        assert int(load("digits", binarize="static").train.values.sum()) == 25_290

    @pytest.mark.parametrize("n", [10, 57])
    def test_an_array_is_split_80_10_10_by_seed(self, n):
        x = np.arange(2 * n, dtype=np.float64).reshape(n, 2)
        labels = np.arange(n, dtype=np.int32)
        splits = load(x, labels=labels, seed=3)
        parts = (splits.train, splits.valid, splits.test)
        assert [len(part) for part in parts] == [n - 2 * (n // 10), n // 10, n // 10]
        assert (splits.name, splits.data_shape, splits.train.binarize) == ("array", (2,), None)
        together = torch.cat([part[:] for part in parts])
        assert torch.equal(together.sort(0).values, torch.from_numpy(x).float())
        assert not torch.equal(together, torch.from_numpy(x).float())
        for part in parts:
            assert torch.equal(part[:][:, 0], 2.0 * part.labels)
        again, other = load(x, seed=3), load(x, seed=4)
        assert torch.equal(again.train.values, splits.train.values)
        assert not torch.equal(other.train.values, splits.train.values)

    def test_the_splits_share_no_memory_with_the_array_or_each_other(self):
        x = torch.rand(20, 2)
        kept = x.clone()
        splits = load(x)
        for part in (splits.train, splits.valid, splits.test):
            part.values.zero_()
        assert torch.equal(x, kept)

    def test_bytes_are_grey_levels_and_bits_are_bits(self):
        grey = torch.arange(40, dtype=torch.uint8).reshape(20, 2)
        assert load(grey).train.levels == 255
        assert torch.cat([load(grey).train[:], load(grey).valid[:], load(grey).test[:]]).max() == torch.tensor(39 / 255)
        for bits in (grey % 2, (grey % 2).bool(), (grey % 2).numpy(), (grey % 2).numpy().astype(bool)):
            splits = load(bits)
            assert splits.train.values.dtype == torch.uint8
            assert set(splits.train[:].unique().tolist()) == {0.0, 1.0}

    def test_other_numbers_are_taken_as_they_are(self):
        x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
        train = load(x).train
        assert train.values.dtype == torch.float64
        assert torch.equal(train[:], train.values.float())


class TestBinarisation:
    def grey(self, n=3_000):
        return torch.linspace(0, 1, 9).repeat(n, 1)

    def test_dynamic_draws_training_data_anew_and_the_others_once(self):
        pytest.importorskip("sklearn")
        splits = load("digits")
        assert splits.train.binarize == "dynamic"
        assert not torch.equal(splits.train[:], splits.train[:])
        for part in (splits.valid, splits.test):
            assert part.binarize == "static"
            assert torch.equal(part[:], part[:])
            assert set(part[:].unique().tolist()) == {0.0, 1.0}
            assert part.values.dtype == torch.uint8
        assert not torch.equal(splits.valid.values, splits.test.values)

    def test_auto_is_dynamic_for_digits_and_none_for_arrays(self):
        pytest.importorskip("sklearn")
        assert load("digits").train.binarize == "dynamic"
        assert load(self.grey(20)).train.binarize is None

    def test_bits_drawn_once_have_the_grey_levels_for_means(self):
        # 9 grey levels in 3 splits of 24,000, 3,000 and 3,000. A mean more than 5.5 standard errors off has probability
        # 4e-8, so correct bits fail with probability 1e-6 over the choice of seed.
        splits = load(self.grey(30_000), binarize="static")
        p = torch.linspace(0, 1, 9)
        for part in (splits.train, splits.valid, splits.test):
            assert part.binarize == "static"
            assert torch.equal(part[:], part[:])
            error = (part[:].mean(0) - p).abs()
            assert (error <= 5.5 * (p * (1 - p) / len(part)).sqrt()).all(), error
        same = (splits.valid.values == splits.test.values).float().mean(0)[4]  # at grey 1/2: independent bits
        assert abs(same - 0.5) <= 5.5 * 0.5 / 3_000**0.5

    def test_the_seed_decides_the_bits(self):
        pytest.importorskip("sklearn")
        first, again, other = (load("digits", seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.test.values, again.test.values)
        assert torch.equal(first.valid.values, again.valid.values)
        assert not torch.equal(first.test.values, other.test.values)
        assert torch.equal(first.test.labels, other.test.labels)  # but not the split
        assert torch.equal(first.test.values, load("digits", binarize="static", seed=1).test.values)
        with pytest.raises(ValueError, match="between 0 and"):
            load("digits", seed=-1)

    def test_threshold_is_above_one_half(self):
        splits = load(torch.tensor([0.0, 0.5, 0.500001, 1.0]).repeat(20, 1), binarize="threshold")
        for part in (splits.train, splits.valid, splits.test):
            assert part.binarize == "threshold"
            assert (part[:] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()
        grey = load(torch.tensor([0, 127, 128, 255], dtype=torch.uint8).repeat(20, 1), binarize="threshold")
        assert (grey.test[:] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()

    @pytest.mark.parametrize("mode", ["dynamic", "static", "threshold"])
    def test_only_values_between_0_and_1_are_binarised(self, mode):
        x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
        assert load(x, binarize=mode).train[:].unique().tolist() == [0.0, 1.0]
        x[7, 1] = -3
        with pytest.raises(
            ValueError, match=rf"binarize='{mode}': found values from -3 to .*, expected values in \[0, 1\]"
        ):
            load(x, binarize=mode)

    @pytest.mark.parametrize("mode", ["auto", "dynamic", "static", "threshold", None])
    def test_loading_moves_no_global_generator(self, mode):
        pytest.importorskip("sklearn")
        before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        for name in ("digits", self.grey(20)):
            load(name, binarize=mode)
        after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]


class TestMistakes:
    def test_unknown_names_and_modes_list_the_choices(self):
        with pytest.raises(
            ValueError, match=r"name: found 'minst', expected .*'digits', 'mnist', 'fashion_mnist', 'frey_faces'"
        ):
            load("minst")
        with pytest.raises(
            ValueError, match=r"binarize: found 'random', .*'auto', 'dynamic', 'static', 'threshold'\) or None"
        ):
            load("digits", binarize="random")

    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            ([[1.0]] * 20, TypeError, "data: found list, expected a tensor or a NumPy array"),
            (Path("mnist"), FileNotFoundError, "data: found no file or folder 'mnist', expected a folder of pictures"),
            (torch.rand(9, 2), ValueError, "data: found 9 of them, expected at least 10 for"),
            (torch.rand(0, 2), ValueError, r"found shape \(0, 2\)"),
            (
                torch.full((20, 2), torch.nan),
                ValueError,
                r"data: found nan at index \(0, 0\) of shape .*, expected finite",
            ),
        ],
    )
    def test_bad_arrays_are_named(self, x, error, message):
        with pytest.raises(error, match=message):
            load(x)

    @pytest.mark.parametrize("option", [{"key": "x"}, {"size": 4}, {"channels": "last"}])
    def test_a_named_set_refuses_what_it_has_no_use_for(self, option):
        with pytest.raises(ValueError, match=f"^{next(iter(option))}: found one for the data set 'digits'"):
            load("digits", **option)

    def test_labels_must_fit(self):
        x = torch.rand(20, 2)
        with pytest.raises(ValueError, match=r"labels: found shape \(19,\) .*, expected 20 integers"):
            load(x, labels=torch.arange(19))
        with pytest.raises(ValueError, match=r"labels: found shape .* dtype torch.float32, expected 20 integers"):
            load(x, labels=torch.rand(20))
        with pytest.raises(
            ValueError, match="labels: found some for the data set 'digits', expected them for an array alone"
        ):
            load("digits", labels=torch.arange(1_797))
