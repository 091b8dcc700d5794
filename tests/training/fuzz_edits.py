"""Random edits of bytes, of JSON and of tensors."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pyro_vae.runtime.digests import digest_of_data
from pyro_vae.runtime.tensor_files import read_tensors, write_tensors

DEEP = 3000


def nasty(rng: random.Random) -> Any:
    deep: Any = 1
    if rng.random() < 0.1:
        for _ in range(DEEP):
            deep = [deep]
        return deep
    part = {"class": rng.choice(["MLP", "Flow", "VAE", "StandardNormal", "os.system"]), "arguments": {}}
    part["arguments"] = rng.choice([{}, {"latent_dim": 10**9}, {"transforms": "spline", "latent_dim": 10**6},
                                    {"transforms": "planar", "latent_dim": 2, "num_transforms": 10**6}])  # fmt: skip
    return rng.choice([None, True, False, 0, 1, -1, 2, -5, 10**6, 10**9, 2**63, 10**400, 0.5, -0.5, 1e-320, 1e308,
                       float("nan"), float("inf"), "", "x", "x" * 5000, "\x00", "os.system", "tanh", "iwae", [], {},
                       [1] * 10**4, [10**9, 10**9], [[]], [-1], {"": 0}, {"same_as": ["posterior"]},
                       {"items": [[1, 2]]}, {"items": 3}, part])  # fmt: skip


def nodes(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if len(path) < 30:
        for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
            found += nodes(data[key], (*path, key))
    return found


def edited_data(rng: random.Random, data: Any) -> Any:
    """One to three values of JSON data replaced, removed, moved, renamed or added."""
    data = json.loads(json.dumps(data))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = nodes(data)
        if not places:
            return nasty(rng)
        *above, key = rng.choice(places)
        parent = data
        for step in above:
            parent = parent[step]
        kind = rng.choice(["replace", "replace", "replace", "nudge", "remove", "swap", "rename", "add", "repeat"])
        if kind == "nudge" and type(parent[key]) in (int, float):
            parent[key] = rng.choice(
                [parent[key] + 1, -parent[key], parent[key] * 2, parent[key] / 3, str(parent[key])]
            )
        elif kind == "remove":
            del parent[key]
        elif kind == "swap":
            other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            parent[key], parent[other] = parent[other], parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[rng.choice(["write", "__class__", "self", "", "x", str(key).upper()])] = parent.pop(key)
        elif kind == "add" and isinstance(parent, dict):
            parent[rng.choice(["write", "step", "__class__", "self", "", "forward"])] = nasty(rng)
        elif kind == "repeat" and isinstance(parent, list):
            parent.append(parent[key])
        else:
            parent[key] = nasty(rng)
    return data


def edited_bytes(rng: random.Random, content: bytes) -> bytes:
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        where = rng.randrange(len(content) + 1)
        kind = rng.choice(["flip", "flip", "cut", "insert", "remove", "zero"])
        if kind == "flip" and where < len(content):
            content[where] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del content[where:]
        elif kind == "insert":
            content[where:where] = rng.randbytes(rng.choice([1, 8, 100]))
        elif kind == "remove":
            del content[where : where + rng.choice([1, 8, 100])]
        else:
            content[where : where + 8] = bytes(8)
    return bytes(content)


def edited_header(rng: random.Random, content: bytes) -> bytes:
    """The header of a safetensors file edited as JSON, and its length made right."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(edited_data(rng, json.loads(content[8 : 8 + size]))).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def edited_tensors(rng: random.Random, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors = dict(tensors)
    name = rng.choice(sorted(tensors))
    if rng.random() < 0.5 and (slots := [each for each in sorted(tensors) if each.startswith("optimizer")]):
        name = rng.choice(slots)
    tensor = tensors[name]
    kind = rng.choice(["shape", "shape", "dtype", "dtype", "drop", "rename", "add", "values", "swap"])
    if kind == "shape":
        shapes = [(), (1,), (0,), (tensor.numel(),), (*tensor.shape, 1), tensor.shape[:-1], tensor.shape[::-1],
                  (1000,), (3, *tensor.shape)]  # fmt: skip
        tensors[name] = torch.ones(rng.choice(shapes), dtype=tensor.dtype)
    elif kind == "dtype":
        tensors[name] = tensor.to(rng.choice([torch.uint8, torch.int64, torch.bool, torch.float64, torch.float16,
                                              torch.bfloat16, torch.complex64, torch.float8_e4m3fn]))  # fmt: skip
    elif kind == "drop":
        del tensors[name]
    elif kind == "rename":
        names = [
            "x",
            "optimizer.99.exp_avg",
            "optimizer.x.step",
            "optimizer.0.new",
            "generator.x",
            "program.x",
            name * 2,
        ]
        tensors[rng.choice(names)] = tensors.pop(name)
    elif kind == "add":
        tensors[rng.choice(["optimizer.0.new", "optimizer.00.step", "x", "generator.cuda"])] = torch.ones(3)
    elif kind == "swap":
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif tensor.dtype == torch.uint8:
        tensors[name] = torch.tensor(list(rng.randbytes(tensor.numel())), dtype=torch.uint8).reshape(tensor.shape)
    else:
        value = rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf")] if tensor.is_floating_point() else [0, -1])
        tensors[name] = torch.full_like(tensor, value)
    return tensors


def edit(rng: random.Random, file: str, content: bytes, scratch: Path) -> bytes:
    """An edit of a file, by its kind."""
    if file in ("weights", "state"):
        kind = rng.choice(["bytes", "header", "tensors", "tensors", "text", "text"])
        if kind == "bytes":
            return edited_bytes(rng, content)
        if kind == "header":
            return edited_header(rng, content)
        scratch.write_bytes(content)
        tensors, text = read_tensors(scratch)
        if kind == "tensors":
            tensors = edited_tensors(rng, tensors)
        else:
            key = "run" if file == "state" else "recipe"
            text = {key: json.dumps(edited_data(rng, json.loads(text[key])))}
        if rng.random() < 0.2:  # as files were before they had checksums
            save_file(tensors, scratch, text)
        else:
            write_tensors(scratch, tensors, text)
        return scratch.read_bytes()
    if rng.random() < 0.25 or file == "metrics":
        return edited_bytes(rng, content)
    data = edited_data(rng, json.loads(content))
    if file == "program" and isinstance(data, dict) and rng.random() < 0.7:
        if rng.random() < 0.5:
            data.pop("sha256", None)
        elif "recipe" in data:
            data["sha256"] = digest_of_data(data["recipe"])
    return json.dumps(data).encode()
