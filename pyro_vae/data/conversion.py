"""Conversion of every kind of data that training and scoring accept to one kind of batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, StackDataset

from pyro_vae.data.arrays import check_array, check_exact, kind_of
from pyro_vae.data.batch import Arguments
from pyro_vae.data.batches import Batches
from pyro_vae.data.entries import Entries
from pyro_vae.data.joint import Joint
from pyro_vae.data.loaders import warn_of_order
from pyro_vae.data.loading import Splits
from pyro_vae.data.opening import Opened, opened
from pyro_vae.data.reading import sparse_loader, stored_loader
from pyro_vae.data.sparse import SparseSplit, is_sparse
from pyro_vae.data.split import Split, check_batch_size
from pyro_vae.data.stored import Stored, together
from pyro_vae.runtime.arguments import AnyData
from pyro_vae.runtime.foreign import advice, comes_from
from pyro_vae.runtime.ranks import Ranks

__all__ = ["as_batches"]


def as_batches(
    data: AnyData,
    batch_size: int,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    shuffle: bool,
    name: str = "data",
    programs: Sequence[Callable[..., Any]] = (),
    each_datum: bool = False,
) -> Batches:
    """Make batches ``(batch_size, *data_shape)`` of ``dtype`` on ``device`` from any kind of data.

    Those of several entries are :class:`~pyro_vae.data.batch.Arguments` where the programs take as many, see
    :mod:`pyro_vae.data.entries`: floating point entries of ``dtype``, integers and booleans of their own type.

    Parameters
    ----------
    data
        A tensor, array or :class:`Split` moves to the device whole. Numbers in a tensor or array are never scaled. Any
        other ``Dataset``, of sparse rows too, is read through a ``DataLoader``. A ``DataLoader`` keeps its own order
        and batch size. A tuple or dictionary of arrays and splits moves to the device whole too. Data on disk do so
        if they are small, and are otherwise read as they are trained on (:mod:`pyro_vae.data.opening`).
        :class:`Batches` are returned unchanged.
    batch_size
        The number of data in a batch, 1 or more; the last one may be smaller.
    device
        The device of the batches.
    dtype
        The floating point type of the batches.
    shuffle
        Draw a new order for each epoch. Iterable data sets and loaders keep their own order.
    name
        The name of the data in error messages.
    programs
        The model and the guide, which are to be called with the batches. With none, batches are of one argument.
    each_datum
        Warn of a loader that shuffles or drops data, as results with a row for each datum would follow it.

    Raises
    ------
    TypeError
        For any other kind of data, or of batch.
    ValueError
        For an array or data set that is empty or not finite, or a ``batch_size`` below 1.

    Examples
    --------
    >>> batches = as_batches(torch.arange(10).reshape(5, 2), 2, device="cpu", dtype=torch.float32, shuffle=False)
    >>> len(batches), batches.num_data
    (3, 5)
    >>> next(iter(batches))
    tensor([[0., 1.],
            [2., 3.]])
    """
    if isinstance(data, Batches):
        return data
    check_batch_size(batch_size)
    device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", to be compared below
    entries = Entries(programs, name)
    source: Split | Joint | DataLoader[Any]
    data = kept(data)
    if (several := _several(data)) is not None:
        several = entries.chosen(several)
        data = several
        if len(several.args) == 1 and not several.kwargs:
            data = several.args[0]
        elif any(isinstance(value, SparseSplit) for value in several.values):
            data = _stacked(several, name)
    if isinstance(data, Arguments):
        source = Joint(data, device, dtype, name)
    elif isinstance(data, Split):
        check_exact(data.values, torch.promote_types(dtype, torch.float32), name)
        source = data if data.device == device else data.to(device)
    elif isinstance(data, (Tensor, np.ndarray)):
        values = check_array(data, name)
        check_exact(values, dtype, name)
        values = values.to(device)
        source = Split(values.to(dtype) if values.is_floating_point() else values)
    elif isinstance(data, DataLoader):
        if each_datum:
            warn_of_order(data, name)
        source = data
    elif isinstance(data, Stored):
        source = stored_loader(data.having(_chosen(data.opened, entries)), batch_size, shuffle, device)
    elif isinstance(data, SparseSplit):
        source = sparse_loader(data, batch_size, shuffle, device)
    elif isinstance(data, Dataset):
        if not isinstance(data, IterableDataset) and len(data) == 0:  # type: ignore[arg-type]
            raise ValueError(f"{name}: found an empty {kind_of(data)}, expected one datum or more")
        source = DataLoader(data, batch_size, shuffle=shuffle and not isinstance(data, IterableDataset))
    else:
        hint = "" if isinstance(data, (list, tuple)) else advice(data)  # which are several arguments here
        raise TypeError(
            f"{name}: found {kind_of(data)}, expected a tensor, a NumPy array, a Dataset, a DataLoader or one split of "
            f"what load returned (such as its .train), or a tuple or dict of arrays{hint}"
        )
    return Batches(source, batch_size, device, dtype, shuffle, entries)


def _entries_of(data: Any) -> Arguments | None:
    """Return what is in a tuple or dictionary, ``None`` for any other kind of data."""
    if isinstance(data, Arguments):
        return data
    if isinstance(data, tuple):
        return Arguments(*data)
    is_named = isinstance(data, Mapping) and all(isinstance(name, str) for name in data)
    return Arguments(**data) if is_named else None


def _several(data: Any) -> Arguments | None:
    """Return the entries of a tuple or dictionary of arrays, ``None`` for any other kind of data."""
    entries = _entries_of(data)
    kinds = (Tensor, np.ndarray, Split, SparseSplit)
    has_data = entries is not None and any(isinstance(value, kinds) for value in entries.values)
    return entries if has_data else None


def _chosen(found: Opened, entries: Entries) -> Opened:
    """Return the columns that programs take."""
    return found if len(found.columns.values) == 1 else found._replace(columns=entries.chosen(found.columns))


def kept(data: Any) -> Any:
    """Return data on disk as arrays, if they are small, or as :class:`Stored`; sparse ones as :class:`SparseSplit`.

    All other data are returned as they are.
    """
    entries = _entries_of(data)
    if entries is None:
        return _kept(data)
    values = [_kept(value) for value in entries.values]
    if not any(isinstance(value, Stored) for value in values):
        return data if all(map(operator.is_, values, entries.values)) else entries.replaced(values)
    part = next(value for value in values if isinstance(value, Stored))
    found = together(entries.replaced(values))
    return Stored(found, window_bytes=part.window_bytes, num_workers=part.own_workers)


def _kept(data: Any) -> Any:
    if comes_from(data, "anndata") and hasattr(data, "obs") and not data.isbacked:
        if data.X is None:
            raise ValueError("data: found an AnnData without X, expected the matrix of a layer, x.layers[...]")
        data = data.X
    if is_sparse(data):
        return SparseSplit(data)
    if isinstance(data, (Tensor, Dataset)) or type(data) is np.ndarray:
        return data
    found = opened(data)
    if found is None:
        return data
    if not found.fits:
        return Stored(found)
    whole = found.whole()
    return SparseSplit(whole) if is_sparse(whole) else whole


def _stacked(entries: Arguments, name: str) -> StackDataset:
    """Return entries of which some are sparse as a data set, which yields a tuple or a dictionary of each datum."""
    if not all(isinstance(value, (Tensor, np.ndarray, Dataset)) for value in entries.values):
        raise TypeError(f"{name}: found ({entries}), expected sparse rows beside arrays and data sets alone")
    sizes = [len(value) for value in entries.values]
    if len(set(sizes)) != 1:
        raise ValueError(f"{name}: found entries of {' and '.join(map(str, sizes))} data, expected equally many")
    return StackDataset(*entries.args, **entries.kwargs)


def training_batches(
    data: Any,
    valid: Any,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    programs: Sequence[Callable[..., Any]] = (),
    ranks: Ranks | None = None,
) -> tuple[Batches, Batches | None]:
    """Return the batches of training and of validation data, as :func:`pyro_vae.fit` takes them.

    Those of several ranks are this rank's shares of them.

    Raises
    ------
    ValueError
        As in :func:`as_batches`, and if a batch is larger than the training data.
    """
    train = data.train if isinstance(data, Splits) else data
    valid = data.valid if isinstance(data, Splits) and valid is None else valid
    batches = as_batches(train, batch_size, device=device, dtype=dtype, shuffle=True, programs=programs)
    if not isinstance(train, DataLoader) and batches.num_data is not None and batch_size > batches.num_data:
        raise ValueError(f"batch_size: found {batch_size}, expected at most the number of data, {batches.num_data}")
    ranks = ranks or Ranks()
    if valid is None:
        return batches.shared(ranks), None
    valid_batches = as_batches(
        valid, batch_size, device=device, dtype=dtype, shuffle=False, name="valid", programs=programs
    )
    return batches.shared(ranks), valid_batches.shared(ranks)
