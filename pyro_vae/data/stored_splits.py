"""Training, validation and test data that stay on disk: the same rows as of data in memory, in their order there.

The rows are drawn as those of an array are, ``RandomState(seed).permutation(N)``, so that nothing but the place of the
data changes: a datum that was held out in memory is held out on disk. What a split knows are the numbers of its rows,
8 bytes each. Reading one passes over the rows of the others in its blocks.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pyro_vae.data.arrays import kind_of
from pyro_vae.data.channels import channels_first
from pyro_vae.data.classes import coded
from pyro_vae.data.opening import Opened, is_small, opened
from pyro_vae.data.own import Options
from pyro_vae.data.sources import pieces_of
from pyro_vae.data.stored import Stored

__all__ = ["stored_splits"]


def stored_splits(
    data: Any, options: Options, seed: int, in_memory: bool | None
) -> tuple[tuple[Stored, ...], str, tuple[str, ...] | None] | None:
    """Return the splits of data that stay on disk, their title and the names of classes; ``None`` if none do.

    Without a word of ``in_memory``, they do where they are too large (:mod:`pyro_vae.data.opening`).

    Raises
    ------
    ValueError
        If data that cannot stay on disk are to do so; as in :func:`pyro_vae.data.load`.
    """
    found = None if in_memory else _opened(data, options, in_memory is None)
    if found is None:
        if in_memory is False:
            what = repr(data) if isinstance(data, (str, os.PathLike)) else kind_of(data)
            raise ValueError(
                f"in_memory: found False for {what}, expected data that can stay on disk: a memory map, a file .npy, "
                ".npz, .parquet or .h5ad, a folder of these, or arrays of zarr, h5py, datasets or pyarrow"
            )
        return None
    if in_memory is None and found.fits:
        return None
    options.only("data on disk", "key", "channels", "labels")
    if len(found.columns.values) != 1:
        raise ValueError(f"key: found none for the columns {found.columns}, expected the name of the one of the data")
    stored = Stored(found)
    if options.channels == "last":
        raise ValueError("channels: found 'last' for data on disk, expected data that were written channels first")
    channels_first(np.broadcast_to(np.uint8(0), stored.shape), options.channels)
    n, labels, classes = len(stored), None, None
    order, sizes = pieces_of(n, seed)
    if found.labels is not None:
        labels, classes = coded(found.labels, n)
    level, splits, start = _level(stored), [], 0
    for size in sizes:
        rows = order[start : start + size]
        splits.append(stored.split(rows, labels, level))
        start += size
    return tuple(splits), found.title, classes


def _opened(data: Any, options: Options, may_be_read: bool) -> Opened | None:
    """Return storages; ``None`` for a small file with an error in it, which the reader of whole files names better."""
    try:
        return opened(data, options.key, options.labels)
    except (ValueError, TypeError, ImportError):
        if may_be_read and isinstance(data, (str, os.PathLike)):
            path = os.path.expanduser(data)
            if os.path.isfile(path) and is_small(os.path.getsize(path)):
                return None
        raise


def _level(stored: Stored) -> int:
    """Return what stands for 1: 255 for bytes, unless none is above 1, which takes reading until there is one."""
    (storage,) = stored.columns.values
    if storage.dtype != np.uint8:
        return 1
    above = (storage.read(*block).max() > 1 for block in zip(stored.starts[:-1], stored.starts[1:], strict=True))
    return 255 if any(above) else 1
