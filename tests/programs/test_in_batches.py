"""Encodings, reconstructions and samples in batches: the same as of all data at once, of data of every kind."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae.data.split import Split
from pyro_vae.programs import in_batches

X = torch.bernoulli(torch.full((23, 4, 4), 0.5, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
Y = torch.arange(23) % 3


@pytest.fixture(params=["encode", "reconstruct"])
def method(request):
    return request.param


@pytest.fixture
def program():
    return pyro_vae.HVAE((4, 4), (3, 2), (5,)).double()


@pytest.fixture
def cvae():
    return pyro_vae.ConditionalVAE((4, 4), 3, 2, (5,)).double()


class TestData:
    @pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
    @pytest.mark.parametrize("layer", [1, 2])
    def test_each_datum_gives_what_it_gives_alone(self, program, batch_size, layer):
        whole = program.encode(X, layer)
        found = program.encode(X, layer, batch_size=batch_size)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-14)
        if layer == 1:  # layer 2 draws the one below it
            found = program.reconstruct(X, batch_size=batch_size)
            torch.testing.assert_close(found, program.reconstruct(X), rtol=0, atol=1e-14)

    def test_arrays_give_arrays_and_tensors_tensors(self, program, method):
        run = getattr(program, method)
        expected = run(X)
        assert isinstance(expected, torch.Tensor)
        for array in (X.numpy(), X.numpy().astype(np.float32), X.numpy().astype(">f8"), X.numpy().astype(np.uint16)):
            for batch_size in (5, 100):
                found = run(array, batch_size=batch_size)
                assert isinstance(found, np.ndarray) and found.dtype == np.float64
                np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-14)
        for tensor in (X.bool(), X.long(), X.float()):
            torch.testing.assert_close(run(tensor, batch_size=5), expected, rtol=0, atol=1e-14)

    def test_whatever_else_training_takes(self, program, method):
        run = getattr(program, method)
        expected = run(X)
        for data in (Split(X), Split(X.byte(), labels=Y), DataLoader(X, 5), TensorDataset(X), (X,), {"x": X}):
            torch.testing.assert_close(run(data, batch_size=4), expected, rtol=0, atol=1e-14)
        with pytest.warns(UserWarning, match=r"x: found a DataLoader that leaves out 3 data \(drop_last=True\), "):
            cut = run(DataLoader(X, 5, drop_last=True))
        torch.testing.assert_close(cut, expected[:20], rtol=0, atol=1e-14)
        with pytest.warns(UserWarning, match="x: found batches of 2 entries, expected one"):
            torch.testing.assert_close(run((X, Y), batch_size=4), expected, rtol=0, atol=1e-14)

    def test_sparse_rows(self, method):
        sparse = pytest.importorskip("scipy.sparse")
        vae = pyro_vae.VAE((16,), 2, (5,)).double()
        rows = pyro_vae.data.SparseSplit(sparse.csr_array(X.flatten(1).numpy()))
        run = getattr(vae, method)
        torch.testing.assert_close(run(rows, batch_size=4), run(X.flatten(1)), rtol=0, atol=1e-14)

    def test_data_packed_with_their_mask(self, program, method):
        x = X.clone()
        x[:9, 1] = torch.nan
        run = getattr(program, method)
        packed = pyro_vae.pack(x)
        expected = run(x.nan_to_num(0.0))
        torch.testing.assert_close(run(packed, batch_size=4), expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose(run(packed.numpy()), expected.numpy(), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("kind", [pyro_vae.ConditionalVAE, pyro_vae.M2])
    def test_labels_packed_or_beside_the_data(self, kind, method):
        program = kind((4, 4), 3, 2, (5,)).double()
        run = getattr(program, method)
        packed = program.pack(X, Y)
        expected = run(packed)
        torch.testing.assert_close(run(packed, batch_size=4), expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(run((X, Y), batch_size=4), expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(run({"y": Y, "x": X}, batch_size=4), expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(run(TensorDataset(X, Y), batch_size=4), expected, rtol=0, atol=1e-14)
        found = run((X.numpy(), Y.numpy()), batch_size=4)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-14)
        assert not torch.equal(run((X, (Y + 1) % 3)), expected)

    def test_threads_take_turns(self, cvae):
        packed = cvae.pack(X, Y)
        expected, found = cvae.encode(packed), []
        run = lambda: found.extend(cvae.encode(packed, batch_size=4) for _ in range(5))  # noqa: E731
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 20
        for each in found:
            torch.testing.assert_close(each, expected, rtol=0, atol=1e-14)

    def test_labels_that_are_not_known(self, method):
        m2 = pyro_vae.M2((4, 4), 3, 2, (5,)).double()
        run = getattr(m2, method)
        some = torch.where(torch.arange(23) < 11, -1, Y)
        known = torch.where(some < 0, m2.classify(X), Y)
        torch.testing.assert_close(run((X, some), batch_size=4), run((X, known)), rtol=0, atol=1e-14)

    def test_one_batch_at_a_time_is_checked_converted_and_encoded(self, method, monkeypatch):
        vae, sizes, steps = pyro_vae.VAE((4, 4), 2, (3,)), [], []
        real = in_batches.check_array
        monkeypatch.setattr(in_batches, "check_array", lambda x, *rest: steps.append("read") or real(x, *rest))
        vae.guide.posterior.register_forward_hook(
            lambda module, args, _: steps.append("run") or sizes.append(len(args[0]))
        )
        getattr(vae, method)(X.numpy(), batch_size=10)
        assert sizes == [10, 10, 3] and steps == ["read", "run"] * 3


class TestSamples:
    def test_a_seed_and_a_batch_size_give_the_same(self, program):
        for options in ({}, {"layer": 1}, {"mean": True}):
            found = []
            for _ in range(2):
                torch.manual_seed(3)
                found.append(program.sample(10, batch_size=4, **options))
            assert found[0].shape == (10, 4, 4) and torch.equal(*found)
        torch.manual_seed(3)
        first = program.sample(4)
        torch.manual_seed(3)
        assert torch.equal(program.sample(10, batch_size=4)[:4], first)

    def test_the_layers_above_are_shared_by_all_batches(self, program):
        with torch.no_grad():
            for parameter in program.model.parameters():
                parameter.mul_(30.0)
        seen = []
        transition = program.transitions[0]
        transition.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        program.sample(10, layer=1, batch_size=4)
        shared = torch.cat(seen[1:])  # after the run that draws what is shared
        assert len(shared) == 10 and len(shared.unique(dim=0)) == 1

    def test_labels_are_cut_with_the_samples(self, cvae):
        seen = []
        cvae.likelihood.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][:, -3:]))
        assert cvae.sample(10, y=torch.arange(10) % 3, batch_size=4).shape == (10, 4, 4)
        assert [len(each) for each in seen] == [4, 4, 2]
        assert torch.cat(seen).argmax(1).tolist() == (torch.arange(10) % 3).tolist()
        assert cvae.sample(7, y=1, batch_size=3).shape == (7, 4, 4) and cvae.sample(0, y=1).shape == (0, 4, 4)


class TestRefused:
    def test_numbers_that_are_not_finite_are_counted_from_the_first_datum(self, program, method):
        x = X.numpy().copy()
        x[13, 2, 1] = np.nan
        message = r"^x: found nan at index \(13, 2, 1\), expected finite .*pyro_vae.pack\(x\).*pyro_vae.observed_only$"
        with pytest.raises(ValueError, match=message):
            getattr(program, method)(x, batch_size=5)

    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            (X[:0], ValueError, r"x: found shape \(0, 4, 4\), expected data"),
            (X[:, :3], ValueError, r"x: found data of shape \(23, 3, 4\), on which the programs fail"),
            ("digits", TypeError, r"x: found str, expected a tensor, .*; pyro_vae.data.load\(x\) reads a name, a file"),
            ([[0.0]], TypeError, r"x: found list, expected a tensor"),
            (np.array(["a"]), TypeError, r"x: found dtype <U1, expected real numbers; categories are taken as columns"),
            ((X, Y[:4]), ValueError, r"x: found entries of 23 and 4 data, expected equally many"),
        ],
    )
    def test_data(self, cvae, x, error, message, method):
        program = cvae if isinstance(x, tuple) else pyro_vae.VAE((4, 4), 2, (3,))
        with pytest.raises(error, match=f"^{message}"):
            getattr(program, method)(x)

    def test_no_batch_and_wrong_sizes(self, program, method):
        with pytest.raises(ValueError, match="^batch_size: found 0, expected a positive integer"):
            getattr(program, method)(X, batch_size=0)
        with pytest.raises(ValueError, match="^batch_size: found 0, expected a positive integer"):
            program.sample(3, batch_size=0)
        with pytest.raises(ValueError, match="^x: found no batch of data, expected one datum or more"):
            in_batches.joined(iter([]), 3)
