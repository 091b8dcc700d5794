"""Files of named tensors and text, with a checksum of both in the header.

The format is safetensors: a JSON header and plain numbers, so that a file cannot contain code.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_vae.runtime.digests import digest_of_tensors
from pyro_vae.runtime.files import replacing

__all__ = ["CHANGED", "DIGEST", "parse", "read_tensors", "write_tensors"]

CHANGED = "found another content than was written (its checksum differs), expected an unchanged file"
DIGEST = "sha256"
_TEXT = "pyro_vae"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors and text to a safetensors file, atomically, with a checksum of both.

    Tensors that share memory are each written whole.

    Raises
    ------
    OSError
        If the file cannot be written, for example to a full disk.
    """
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    text = dict(metadata or {})
    text[DIGEST] = digest_of_tensors(plain, text)
    header = {_TEXT: json.dumps(text, sort_keys=True)}  # one entry, since the library writes several in any order
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, header)
        except SafetensorError as error:  # names no path and is no OSError
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error


def read_tensors(path: Path, *, verify: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the text of a safetensors file.

    Older files have no checksum and are accepted.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a whole safetensors file, or if ``verify`` is true and the checksum differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"found no {path.name} in {path.parent}, expected a folder that save or fit wrote")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:  # the library has several classes of error for a broken file
        raise ValueError(f"{path}: found {error}, expected a whole safetensors file") from error
    text = parse(path, header[_TEXT]) if _TEXT in header else header
    if not isinstance(text, dict) or not all(isinstance(value, str) for value in text.values()):
        raise ValueError(f"{path}: found text of another form in its header, expected strings by name")
    digest = text.pop(DIGEST, None)
    if verify and digest is not None and digest != digest_of_tensors(tensors, text):
        raise ValueError(f"{path}: {CHANGED}")
    return tensors, text


def parse(source: object, text: str) -> Any:
    """Parse JSON text.

    Raises
    ------
    ValueError
        If the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{source}: found JSON that is nested too deeply, expected a few levels") from None
    except ValueError as error:
        raise ValueError(f"{source}: found {error}, expected JSON") from error
