"""What the folder of a run holds after the run was killed, and whether two runs ended alike, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import pyro_vae
from pyro_vae.training.checkpoint import read_tensors

WEIGHTS, PROGRAM, STATE, METRICS = "checkpoint.safetensors", "program.json", "last.safetensors", "metrics.jsonl"


def temporaries(folder: Path) -> list[str]:
    """Return the names of files that are being written, or were when the run was killed."""
    try:
        return [path.name for path in folder.iterdir() if path.name.startswith(".")]
    except FileNotFoundError:
        return []


def num_epochs(folder: Path) -> int | None:
    """Return how many epochs the state on disk has behind it, or ``None`` without one."""
    if not (folder / STATE).exists():
        return None
    return json.loads(read_tensors(folder / STATE)[1]["run"])["position"]["epoch"]


def fault(folder: Path) -> str | None:
    """Return what is wrong with the folder of a run that was killed: a file that is not whole, or does not load."""
    if not folder.exists():
        return None
    try:
        unknown = {path.name for path in folder.iterdir()} - {WEIGHTS, PROGRAM, STATE, METRICS, *temporaries(folder)}
        if unknown:
            return f"unknown files {sorted(unknown)}"
        if (folder / WEIGHTS).exists():
            pyro_vae.load(folder)
        if (folder / STATE).exists():
            num_epochs(folder)
        if (folder / PROGRAM).exists():
            json.loads((folder / PROGRAM).read_text(encoding="utf-8"))
        if (folder / METRICS).exists():
            lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
            epochs = [json.loads(line)["epoch"] for line in lines]
            if epochs != list(range(1, len(epochs) + 1)):
                return f"{METRICS} holds the epochs {epochs}"
    except Exception as error:  # whatever a user would meet
        return f"{type(error).__name__}: {error}"
    return None


def difference(found: Path, expected: Path) -> str | None:
    """Return the first file in which two folders of finished runs differ but for times, and where in it."""
    names = [{path.name for path in folder.iterdir()} - set(temporaries(folder)) for folder in (found, expected)]
    if names[0] != names[1]:
        return f"files {sorted(names[0])}, expected {sorted(names[1])}"
    for name in sorted(names[0]):
        mine, other = (folder / name for folder in (found, expected))
        if name.endswith(".safetensors"):
            place = _of_tensors(mine, other)
        elif name.endswith((".json", ".jsonl")):
            place = _of_data(_parsed(mine), _parsed(other))
        else:
            continue
        if place is not None:
            return f"{name}: {place}"
    return None


def _of_tensors(found: Path, expected: Path) -> str | None:
    (tensors, metadata), (others, other_metadata) = read_tensors(found), read_tensors(expected)
    if tensors.keys() != others.keys():
        return f"names {sorted(tensors.keys() ^ others.keys())} are in one of the two"
    for name, tensor in tensors.items():
        other = others[name]
        if tensor.dtype != other.dtype or tensor.shape != other.shape or not torch.equal(_bits(tensor), _bits(other)):
            return name
    return _of_data(*(json.loads(text.get("run", "null")) for text in (metadata, other_metadata)))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _of_data(found: Any, expected: Any, place: str = "") -> str | None:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [key for key in {**found, **expected} if not key.endswith("seconds")]
        pairs = [(key, found.get(key), expected.get(key)) for key in keys]
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = [(index, *values) for index, values in enumerate(zip(found, expected, strict=True))]
    else:
        return None if found == expected else f"{place or 'data'} {str(found)[:60]}, expected {str(expected)[:60]}"
    places = (_of_data(mine, other, f"{place}.{key}".lstrip(".")) for key, mine, other in pairs)
    return next((place for place in places if place is not None), None)
