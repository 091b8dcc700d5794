"""Data files as they are on disk, downloads that fail, and downloads in a process that dies."""

from __future__ import annotations

import importlib
import io
import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_vae.data import sources
from tests.endurance import processes

torchvision_error = ""
torchvision_mnist: Any = None
try:
    torchvision_mnist = importlib.import_module("torchvision.datasets.mnist")
except (ImportError, RuntimeError) as error:
    torchvision_error = f"torchvision cannot be imported: {error}"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing")
needs_torchvision = pytest.mark.skipif(bool(torchvision_error), reason=torchvision_error)


def real(root: Path, *parts: str) -> Path:
    """Give ``root`` back if the file is in it, and skip the test if not."""
    if not root.joinpath(*parts).is_file():
        pytest.skip(f"no {root.joinpath(*parts)}; PYRO_VAE_DATA can name the folder")
    return root


def frey_file(path: Path, monkeypatch) -> bytes:
    """Write a file like the real one, with the number of each image in its pixels, and take its checksum for right."""
    scipy_io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.broadcast_to((np.arange(1_965) % 256).astype(np.uint8), (560, 1_965)).copy()
    images[0] = np.arange(1_965) // 256  # pixel (0, 0): with the others it tells every image from every other
    scipy_io.savemat(path, {"ff": images}, do_compression=True)
    monkeypatch.setattr(sources, "_FREY_SHA256", sources.hashlib.sha256(path.read_bytes()).hexdigest())
    return path.read_bytes()


class Response(io.BytesIO):
    """What ``urlopen`` returns, as far as ``torch.hub`` reads it."""

    def info(self):
        return self

    def get_all(self, header):
        return [str(len(self.getbuffer()))]


def status_of(run: Callable[[], object], log: Path) -> int:
    """Run a function in a child process and return its exit status; what it prints goes to ``log``."""
    with warnings.catch_warnings():  # Python warns of other threads, none of which holds a lock that the child needs
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = processes.start(lambda: run() and 0, log)
    return processes.ended(pid, seconds=60)


def mnist_files(raw: Path) -> None:
    """Write four files of the real sizes, nearly all zero (so sparse), with a mark in each split."""
    raw.mkdir(parents=True, exist_ok=True)
    marks = {"train": {0: 10, 49_999: 20, 50_000: 30, 59_999: 40}, "t10k": {0: 50, 9_999: 60}}
    for part, n in {"train": 60_000, "t10k": 10_000}.items():
        with (raw / f"{part}-images-idx3-ubyte").open("wb") as images:
            images.write(struct.pack(">4I", 0x0803, n, 28, 28))
            for index, mark in marks[part].items():
                images.seek(16 + 784 * index)
                images.write(bytes([mark]))
            images.truncate(16 + 784 * n)
        with (raw / f"{part}-labels-idx1-ubyte").open("wb") as labels:
            labels.write(struct.pack(">2I", 0x0801, n))
            for index, mark in marks[part].items():
                labels.seek(8 + index)
                labels.write(bytes([mark // 10]))
            labels.truncate(8 + n)
