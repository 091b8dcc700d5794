"""Batches: of what kinds of data they are cut, in which order they come, and where they lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae.data.split import Split
from tests.support.batches import Squares, Stream, batches_of, grey, left_out


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
        with left_out(isinstance(data, TensorDataset)):
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
        with left_out():
            assert [x.flatten().tolist() for x in batches] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
        assert next(iter(batches)).dtype == torch.float64

    @pytest.mark.parametrize("data", [Stream(), DataLoader(Stream(), batch_size=4)])
    def test_an_iterable_data_set_has_no_length(self, data):
        batches = batches_of(data, 4, shuffle=True)
        assert batches.num_data is None
        with pytest.raises(TypeError):
            len(batches)
        assert [x.flatten().tolist() for x in batches] == [[0, 1, 2, 3], [4]] == [x.flatten().tolist() for x in batches]

    def test_a_loader_of_whole_batches_does_not_know_the_number_of_data(self):
        batches = batches_of(DataLoader(list(torch.arange(10.0).reshape(10, 1).split(4)), batch_size=None), 4)
        assert (len(batches), batches.num_data, batches.last_size) == (3, None, None)
        assert [len(x) for x in batches] == [4, 4, 2]

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
