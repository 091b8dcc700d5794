"""A batch of several arguments is measured, cut and moved like a tensor."""

from __future__ import annotations

import torch
from torch.utils import _pytree

from pyro_vae.data.batch import Arguments, as_batch, call, tensors_in, with_tensors

X, Y = torch.arange(10.0).reshape(5, 2), torch.arange(5)


def test_rows():
    """Of tensors that have as many rows as there are data; others, such as a matrix for all data, stay whole."""
    matrix = torch.eye(3)
    batch = Arguments(X, None, y=Y, a=matrix, mode="mean")
    assert (len(batch), batch.shape, batch.device.type) == (5, (5, 2), "cpu")
    some = batch[:2]
    assert torch.equal(some.args[0], X[:2]) and torch.equal(some.kwargs["y"], Y[:2])
    assert some.kwargs["a"] is matrix and some.kwargs["mode"] == "mean" and some.args[1] is None
    assert torch.equal(batch[torch.tensor([4, 0])].kwargs["y"], torch.tensor([4, 0]))
    assert (len(Arguments(1)), Arguments().shape, Arguments(mode=1).device.type) == (0, (), "cpu")


def test_shown():
    assert str(Arguments(X, 1, y=Y, mode="mean")) == "(5, 2), 1, y=(5,), mode='mean'"


def test_calls():
    def shown(*args, **kwargs):
        return args, kwargs

    assert call(shown, X) == ((X,), {})
    assert call(shown, Arguments(1, y=2)) == ((1,), {"y": 2})
    assert as_batch((X,), {}) is X
    batch = as_batch((X, 1), {"y": Y})
    assert as_batch((batch,), {}) is batch and batch.args == (X, 1) and batch.kwargs == {"y": Y}


def test_tensors_in_and_with_them():
    scalar = torch.tensor(1.0)
    batch = Arguments(X, 3, y=Y, beta=scalar)
    assert list(map(id, tensors_in(batch))) == [id(X), id(Y), id(scalar)] and tensors_in(X)[0] is X
    other = with_tensors(batch, [Y, X, scalar])
    assert other.args == (Y, 3) and other.kwargs == {"y": X, "beta": scalar}
    assert with_tensors(X, [Y]) is Y


def test_as_a_tree():
    batch = Arguments(X, y=Y)
    leaves, spec = _pytree.tree_flatten(batch)
    assert leaves[0] is X and leaves[1] is Y
    again = _pytree.tree_unflatten(leaves, spec)
    assert again.args == (X,) and again.kwargs == {"y": Y}
