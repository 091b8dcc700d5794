"""Checksums of what is in a file.

A bit that flips on a disk changes a weight and no shape, so nothing but a checksum can tell. It is taken of what the
file means and not of its bytes: of each tensor, by name, its dtype, shape and values, and of the text beside them.

It guards against accidents. Who edits a file on purpose can compute another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["digest_of_data", "digest_of_tensors"]


def digest_of_data(data: Any) -> str:
    """Return the SHA-256 of plain data, as JSON with sorted keys writes them.

    >>> digest_of_data({"a": 1, "b": [2.0]}) == digest_of_data({"b": [2.0], "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def digest_of_tensors(tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> str:
    """Return the SHA-256 of named tensors on the CPU and of the named text beside them.

    >>> one = digest_of_tensors({"a": torch.zeros(2)}, {})
    >>> one == digest_of_tensors({"a": torch.zeros(2, 1)}, {})
    False
    """
    found = hashlib.sha256(json.dumps(dict(text), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
