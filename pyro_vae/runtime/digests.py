"""Checksums of the content of a file, and of some rows of data.

A bit that flips on a disk changes a weight but no shape, so only a checksum can detect it. The checksum covers the
content and not the bytes of the file: the name, dtype, shape and values of each tensor, and the text beside them.

It guards against accidents alone. Whoever edits a file on purpose can compute a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["digest_of_data", "digest_of_rows", "digest_of_tensors"]

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # of the same bytes


def digest_of_data(data: Any) -> str:
    """Return the SHA-256 of plain data, written as JSON with sorted keys.

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


def digest_of_rows(tensors: Sequence[Any], num_rows: int = 64) -> str:
    """Return a digest of some rows of tensors, at even distances; what is no tensor is left out.

    >>> x = torch.zeros(1000, 2)
    >>> digest_of_rows([x]) == digest_of_rows([x, "an option"]), digest_of_rows([x]) == digest_of_rows([x + 1])
    (True, False)
    """
    found = hashlib.sha256()
    for each in tensors:
        if isinstance(each, Tensor) and each.numel():
            flat = each.detach().reshape(len(each), -1) if each.dim() else each.detach().reshape(1, 1)
            rows = torch.linspace(0, len(flat) - 1, min(len(flat), num_rows), dtype=torch.float64, device=flat.device)
            found.update(repr((each.shape, each.dtype)).encode())
            flat = flat.view(_SIGNED.get(flat.dtype, flat.dtype))  # torch 2.6 takes no rows of unsigned integers
            found.update(flat[rows.long()].contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]
