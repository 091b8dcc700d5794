"""ONNX Runtime for browsers, which the latent explorer of a report runs on: two files of one npm package.

They are no part of the sources. ``python -m pyro_vae.reporting.fetching`` puts them beside this file, from where the
wheel takes them. A report that is made without them has no explorer, and says how to get it.

The version is the newest whose WebAssembly leaves room for a decoder in a page of 5 MB: 2.86 MB compressed, where
1.23 takes 3.05 and 1.24 takes 3.11.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["COMMAND", "FILES", "FOLDER", "PACKAGE", "Runtime", "places", "runtime"]

PACKAGE = "onnxruntime-web@1.22.0"
COMMAND = "python -m pyro_vae.reporting.fetching"
FOLDER = Path(__file__).parent / "assets"
# What the page runs: the library, the code around the WebAssembly, and the WebAssembly itself.
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


class Runtime(NamedTuple):
    """The files, compressed by gzip."""

    library: bytes
    glue: bytes
    wasm: bytes


def places() -> list[Path]:
    """Return where the files lie, whether they are there or not; the version is in their names."""
    return [FOLDER / f"{PACKAGE.replace('@', '-')}-{name}.gz" for name in FILES]


def runtime() -> Runtime | None:
    """Return the files, or ``None`` where they have not been fetched."""
    if not all(place.is_file() for place in places()):
        return None
    return Runtime(*(place.read_bytes() for place in places()))
