r"""The decoder of a program as a file that a browser runs, small enough to lie in a page.

A float32 has 24 bits of significand, of which a picture of 256 grey levels shows few. Where the page would become too
large, the weights are rounded to as many bits as fit, 12 or more, since zeros compress away. Bytes of the same rank lie
together, as in HDF5's shuffle filter, since exponents resemble each other and last bits resemble nothing. What was
written is decoded again, and held against the program,

.. math:: \max_{n, d} \lvert \hat x_{nd} - \mathbb{E}[x|z_n]_d \rvert \le 5 \cdot 10^{-4} .
"""

from __future__ import annotations

import copy
import gzip
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae.reporting.assets import COMMAND, PACKAGE, Runtime, runtime
from pyro_vae.reporting.decoders import Top
from pyro_vae.reporting.subject import LeftOut
from pyro_vae.runtime.optional import imported, install
from pyro_vae.sharing.exporting import write_network

__all__ = ["TOLERANCE", "Explorer", "explorer_of", "shuffled"]

TOLERANCE = 5e-4
_SIGNIFICANDS = (24, 20, 18, 17, 16, 15, 14, 13, 12)  # bits


@dataclass(frozen=True)
class Explorer:
    """A decoder of ``num_model`` bytes, compressed, with what runs it, and how far it is from the program."""

    model: bytes
    num_model: int
    runtime: Runtime
    difference: float
    significand: int

    @property
    def num_bytes(self) -> int:
        """The length that the compressed files have in a page, in which 4 bytes are 5 characters."""
        return sum(5 * -(-len(part) // 4) for part in (self.model, *self.runtime))


def explorer_of(top: Top, z: Tensor, most_bytes: int) -> Explorer:
    """Return the decoder of a program for latents like ``z``, ``(B, D)``, in at most ``most_bytes`` of a page.

    Raises
    ------
    LeftOut
        If ONNX Runtime for browsers was not fetched, or the decoder is too large.
    ImportError
        If a library of the extra ``export`` is missing.
    ValueError
        If the decoder cannot be written as ONNX.
    """
    there = runtime()
    if there is None:
        raise LeftOut(f"{PACKAGE}, which runs the decoder in the page, is not here: {COMMAND} fetches it by npm")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        imported(module, module, "explorer", install("export"))
    network = copy.deepcopy(top.decoder).cpu().float().eval().requires_grad_(False)
    z = z.cpu().float()
    with TemporaryDirectory() as folder, torch.no_grad(), pyro.validation_enabled(False):
        (expected,) = network(z)
        written = write_network(network, z, Path(folder), "onnx").read_bytes()
    for bits in _SIGNIFICANDS:
        rounded = _rounded(written, bits)
        packed = gzip.compress(shuffled(rounded), 9, mtime=0)
        found = Explorer(packed, len(rounded), there, _difference(rounded, z, expected), bits)
        if found.num_bytes <= most_bytes:
            break
    else:
        raise LeftOut(
            f"the decoder is too large for the page: with what runs it, it takes {found.num_bytes / 1e6:.1f} MB, of "
            f"which {max(most_bytes, 0) / 1e6:.1f} MB are left"
        )
    if not found.difference <= TOLERANCE:  # nor NaN
        raise LeftOut(
            f"the decoder is too large for the page: its weights had to be rounded to {bits} bits, and its pictures "
            f"differ from the program's by {found.difference:.0e}, where {TOLERANCE} is allowed"
        )
    return found


def shuffled(data: bytes) -> bytes:
    """Return bytes 0, 4, 8, ... of the data, then 1, 5, 9, ... and so on, padded by zeros to a multiple of 4.

    >>> shuffled(b"abcdABCD")
    b'aAbBcCdD'
    """
    padded = np.frombuffer(data + b"\0" * (-len(data) % 4), np.uint8)
    return padded.reshape(-1, 4).T.tobytes()


def _rounded(model: bytes, bits: int) -> bytes:
    """Return an ONNX model whose weights have so many bits of significand, without the shapes on the way."""
    onnx: Any = imported("onnx", "onnx", "explorer", install("export"))
    loaded = onnx.load_from_string(model)
    graph = loaded.graph
    graph.ClearField("value_info")
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            significand, exponent = np.frexp(onnx.numpy_helper.to_array(tensor))
            values = np.ldexp(np.round(significand * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return bytes(loaded.SerializeToString())


def _difference(model: bytes, z: Tensor, expected: Tensor) -> float:
    """Return the largest difference of what a model decodes from what the program does."""
    onnxruntime: Any = imported("onnxruntime", "onnxruntime", "explorer", install("export"))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"z": z.numpy()})
    return float(np.abs(found - expected.numpy()).max())
