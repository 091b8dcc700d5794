"""Which entries of a batch the programs are called with, told by their signatures, and what is said of the others."""

from __future__ import annotations

import functools
import warnings
from collections import namedtuple

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae.data.batch import Arguments
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.entries import Entries, signature_of, takes
from pyro_vae.data.split import Split
from pyro_vae.inference.isolation import isolated
from tests.support.batches import left_out

X, Y = torch.arange(10.0).reshape(5, 2), torch.arange(5)


def one(x):
    pass


def two(x, y):
    pass


def optional(x, y=None):
    pass


class Module(nn.Module):
    def forward(self, x, y):
        pass

    def method(self, x, y):
        pass


class Compact:
    def __call__(self, x, y):
        pass


@functools.wraps(two)
def decorated(*args, **kwargs):
    return two(*args, **kwargs)


OF_TWO = {
    "function": two,
    "module": Module(),
    "method": Module().method,
    "partial": functools.partial(lambda beta, x, y: None, 1.0),
    "decorated": decorated,
    "object": Compact(),
    "isolated": isolated(Module()),
    "handler": poutine.scale(Module(), scale=2.0),
    "handlers": poutine.scale(poutine.condition(Module().method, data={}), scale=2.0),
    "isolated handler": isolated(poutine.scale(two, scale=2.0)),
    "annealed": pyro_vae.anneal_kl(two, two, 0.5)[0],
    "annealed twice": pyro_vae.anneal_kl(*pyro_vae.anneal_kl(Module(), two, 0.5), 0.5)[0],
}


@pytest.mark.parametrize("name", OF_TWO)
def test_programs_of_two_arguments_are_told(name):
    program = OF_TWO[name]
    assert takes(program, Arguments(X, Y)) and takes(program, Arguments(X, y=Y)) and takes(program, Arguments(y=Y, x=X))
    assert not takes(program, Arguments(X)) and not takes(program, Arguments(X, Y, Y))
    assert not takes(program, Arguments(x=X, label=Y))


def test_programs_that_take_anything_or_do_not_tell():
    guide = AutoNormal(two)
    assert takes(guide, Arguments(X)) and takes(guide, Arguments(X, Y, label=Y))
    unknown = type("Unknown", (), {"__call__": one, "__signature__": "none"})()
    assert list(signature_of(unknown).parameters) == ["x"]


def test_labels_are_no_options():
    """An argument with a default, such as a weight, takes no entry by its place."""

    def program(x, beta=1.0, sizes=X):
        pass

    assert takes(program, Arguments(X)) and takes(program, Arguments(X, beta=2.0))
    assert not takes(program, Arguments(X, Y)) and not takes(program, Arguments(X, Y, Y))


def test_a_program_of_observed_entries_takes_the_packed_data_alone():
    model, _ = pyro_vae.observed_only(two, two)
    assert takes(model, Arguments(X)) and not takes(model, Arguments(X, Y))


Pair = namedtuple("Pair", ["data", "label"])


class TestChoice:
    @pytest.mark.parametrize("batch", [(X, Y), [X, Y], Pair(X, Y)], ids=["tuple", "list", "named tuple"])
    @pytest.mark.parametrize("program", [two, optional])
    def test_by_position(self, batch, program):
        found = Entries([program, program]).batch_of(batch)
        assert found.args[0] is X and found.args[1] is Y and not found.kwargs

    def test_by_name(self):
        found = Entries([two, optional]).batch_of({"y": Y, "x": X})
        assert not found.args and found.kwargs["x"] is X and found.kwargs["y"] is Y

    def test_one_entry_is_a_tensor(self):
        for programs in ([], [one, one], [optional, two]):
            assert Entries(programs).batch_of([X]) is X
            assert Entries(programs).batch_of(X) is X

    def test_the_rest_is_left_out_with_one_warning(self):
        entries = Entries([one, optional], "valid")
        with pytest.warns(UserWarning) as warned:
            assert entries.batch_of([X, Y]) is X
        (warning,) = warned
        assert str(warning.message) == (
            "valid: found batches of 2 entries, expected one. model(x) and guide(x, y=None) do not take them all, so "
            "the first entry is used and the rest (labels?) is left out. To be rid of this warning, let the data set "
            "return x alone, or the programs take the rest too"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert entries.batch_of([X, Y]) is X

    def test_a_first_entry_by_name(self):
        with pytest.warns(UserWarning, match=r"found batches of 2 entries \(x, label\), expected one"):
            found = Entries([one, one]).batch_of({"x": X, "label": Y})
        assert list(found.kwargs) == ["x"]

    @pytest.mark.parametrize("batch", [[X, Y, Y], {"x": X, "label": Y}, {"label": Y, "x": X}])
    def test_what_the_programs_cannot_take_is_refused(self, batch):
        with pytest.raises(ValueError, match=r"^data: found batches of .*, expected those that the programs take: .*"):
            Entries([two, one]).batch_of(batch)

    def test_the_refusal_names_both_programs(self):
        annotated = Module()
        with pytest.raises(ValueError, match=r"batches of 3 entries, expected .*: model\(x, y\) and guide\(x\)$"):
            Entries([annotated, one]).batch_of([X, Y, Y])

    @pytest.mark.parametrize(
        "batch", [{"x": X}, {0: X}, {}, [], "text", ["text"], 3.0], ids=lambda batch: repr(batch)[:10]
    )
    def test_what_is_no_batch_is_refused(self, batch):
        with pytest.raises(TypeError, match="^batch: found .*, expected a tensor, or a tuple or list that starts with"):
            Entries().batch_of(batch)

    def test_a_batch_without_a_tensor_is_refused(self):
        with pytest.raises(TypeError, match=r"^batch: found \(x=1, y='text'\), expected one tensor or more"):
            Entries([two, two]).batch_of({"x": 1, "y": "text"})

    def test_sparse_entries_are_refused(self):
        with pytest.raises(ValueError, match="expected a dense one"):
            Entries([two, two]).batch_of([X, Y.to_sparse()])


def batches_of(data, programs=(two, two), batch_size=2, dtype=torch.float32, shuffle=False, device="cpu"):
    return as_batches(data, batch_size, device=device, dtype=dtype, shuffle=shuffle, programs=programs)


class TestBatches:
    def test_types(self):
        """Floating point entries get the type of the programs; integers, booleans and options stay what they are."""
        mask, option = torch.ones(5, 1, dtype=torch.bool), torch.tensor(2.0, dtype=torch.float64)
        rows = [(X.double(), Y, mask, option, None, "mean", 0.5)]
        anything = lambda *args: None  # noqa: E731
        for data in (DataLoader(rows, batch_size=None), rows[0]):
            (batch,) = batches_of(data, (anything, anything), 5, torch.bfloat16)
            assert [value.dtype for value in batch.tensors] == [torch.bfloat16, torch.int64, torch.bool]
            assert batch.args[3:] == (option, None, "mean", 0.5) and batch.args[3].dtype == torch.float64
            assert torch.equal(batch.args[1], Y)

    def test_they_move_to_the_device(self):
        for data in (DataLoader(TensorDataset(X, Y), batch_size=5), (X, Y)):
            (batch,) = batches_of(data, batch_size=5, device="meta")
            assert [value.device.type for value in batch.tensors] == ["meta", "meta"]

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_resident_entries_are_cut_by_the_same_rows(self, shuffle):
        images = Split((51 * torch.arange(5)).byte()[:, None], levels=255)
        for data in ((images, Y), {"x": images, "y": Y.numpy()}):
            batches = batches_of(data, shuffle=shuffle)
            assert batches.resident
            assert (len(batches), batches.num_data, batches.last_size) == (3, 5, 1)
            torch.manual_seed(3)
            xs, ys = zip(*(batch.values for batch in batches), strict=True)
            torch.manual_seed(3)
            rows = torch.cat(list(batches_of(images, (one, one), shuffle=shuffle)))
            assert torch.equal(torch.cat(xs), rows) and torch.cat(ys).tolist() == (5 * rows[:, 0]).round().tolist()

    def test_a_batch_may_be_written_to(self):
        x = X.clone()
        next(iter(batches_of((x, Y)))).args[0].zero_()
        assert torch.equal(x, X)

    def test_a_tuple_for_programs_of_one_argument(self):
        with left_out():
            batches = batches_of((X, Y), (one, one), 5)
        assert torch.equal(next(iter(batches)), X)
        assert torch.equal(next(iter(batches_of((X,), (one, one), 5))), X)

    def test_of_other_functions_the_first_entry_is_used(self):
        with pytest.warns(UserWarning, match="expected one. Here the first entry is used"):
            (x,) = batches_of(DataLoader(TensorDataset(X, Y), batch_size=5), ())
        assert torch.equal(x, X)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ((X, Y[:4]), "^data: found entries of 5 and 4 data, expected equally many$"),
            ({"x": X, "y": X / 0}, r"^data\['y'\]: found nan at index \(0, 0\)"),
            ((X, np.array([])), r"^data\[1\]: found shape \(0,\)"),
        ],
    )
    def test_resident_entries_are_checked(self, data, message):
        with pytest.raises(ValueError, match=message):
            batches_of(data)

    @pytest.mark.parametrize("data", [(), {}, (1, 2), {"x": None}, [X, Y]])
    def test_what_holds_no_data_is_refused(self, data):
        with pytest.raises(TypeError, match=r"^data: found .*, expected a tensor, .* or a tuple or dict of arrays$"):
            batches_of(data)

    def test_checks_go_through_the_entries_of_a_loader(self):
        bad = torch.where(X == 7, torch.nan, X)
        batches = batches_of(DataLoader(TensorDataset(Y[:, None] * 1.0, bad), batch_size=2))
        with pytest.raises(ValueError, match=r"^x: found the value nan at \(3, 1\), expected finite numbers"):
            pyro_vae.log_likelihood(_model, _guide, batches, 2)


def _model(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("x", pyro.distributions.Normal(0.0, 1.0).expand([len(x), x.shape[1]]).to_event(1), obs=x)


def _guide(x, y):
    pass
