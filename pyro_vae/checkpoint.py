"""Saving and loading, with nothing executable inside.

``checkpoint.safetensors`` holds every parameter and buffer of a program, ``program.json`` the recipe that rebuilds a
packaged one. Both are data: opening a stranger's folder runs no code of theirs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pyro_vae.files import replacing, write_text
from pyro_vae.handlers import bare
from pyro_vae.missing import ObservedOnly
from pyro_vae.modules import build, with_references, without_references

__all__ = ["as_module", "load", "read_tensors", "restore", "save", "write_tensors"]

WEIGHTS, _PROGRAM = "checkpoint.safetensors", "program.json"

Folder = str | os.PathLike[str]


def as_module(program: Any) -> nn.Module:
    """A module, or a pair as one module with children ``model`` and ``guide``, without what is wrapped around it."""
    if isinstance(program, nn.Module):
        return _bare_module(program)
    if isinstance(program, (tuple, list)) and len(program) == 2 and all(isinstance(p, nn.Module) for p in program):
        return nn.ModuleDict({"model": _bare_module(program[0]), "guide": _bare_module(program[1])})
    names = [type(part).__name__ for part in (program if isinstance(program, (tuple, list)) else [program])]
    raise TypeError(f"program: found ({', '.join(names)}), expected a module or a pair (model, guide) of modules")


def _bare_module(program: nn.Module) -> nn.Module:
    module = bare(program)
    if isinstance(module, ObservedOnly):
        module = module.program
    if not isinstance(module, nn.Module):
        raise TypeError(f"program: found the annealed {type(module).__name__}, expected an annealed module")
    return module


def _recipe(program: nn.Module) -> dict[str, Any] | None:
    if isinstance(program, nn.ModuleDict):  # a pair that fit was given: the two halves of one packaged program?
        recipes = [getattr(program[half], "recipe", None) for half in ("model", "guide")]
        return recipes[0] if recipes[0] == recipes[1] else None
    return getattr(program, "recipe", None)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file, atomically. Tensors that share memory are each written whole."""
    with replacing(path) as temporary:
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, temporary, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors, on the CPU, and its metadata.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a whole safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"found no {path.name} in {path.parent}, expected a folder that save or fit wrote")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error


def restore(program: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Copy named tensors into a program's parameters and buffers.

    Raises
    ------
    ValueError
        If a name is missing or unknown or a shape differs; nothing is copied then.
    """
    expected = program.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        found_shape = tuple(tensors[name].shape) if name in tensors else "nothing"
        expected_shape = tuple(expected[name].shape) if name in expected else "nothing"
        if found_shape != expected_shape:
            raise ValueError(f"{source}: leaf {name!r}: found {found_shape}, expected {expected_shape}")
    program.load_state_dict(dict(tensors))


def save(program: Any, folder: Folder) -> None:
    """Write a program's weights, and its recipe if it has one, into ``folder``.

    Parameters
    ----------
    program
        A packaged program such as :class:`pyro_vae.VAE`, any module, or a pair ``(model, guide)``.
    folder
        Made when missing. Each file is replaced whole or not at all.

    Examples
    --------
    >>> import tempfile, torch, pyro_vae
    >>> vae = pyro_vae.VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(vae, folder)
    ...     copy = load(folder)
    >>> torch.equal(copy.encode(torch.ones(1, 4)), vae.encode(torch.ones(1, 4)))
    True
    """
    module = as_module(program)
    folder = Path(folder)
    description = {"format": 1, "recipe": with_references(_recipe(module))}
    write_text(folder / _PROGRAM, json.dumps(description, indent=2) + "\n")
    write_tensors(folder / WEIGHTS, module.state_dict())


def load(folder: Folder, program: Any = None) -> Any:
    """Read back what :func:`save` or :func:`pyro_vae.fit` wrote.

    Parameters
    ----------
    folder
        The folder.
    program
        Where to load the weights: a module or a pair ``(model, guide)``, as given to ``save`` or ``fit``. ``None``
        rebuilds a packaged program from its recipe, on the CPU and in the dtype it was saved with.

    Returns
    -------
    The program, with the weights in it.

    Raises
    ------
    FileNotFoundError
        If the folder holds no checkpoint.
    ValueError
        If the checkpoint does not fit the program (the message names the leaf and both shapes), is damaged, or has no
        recipe while no program is given.
    """
    folder = Path(folder)
    tensors, _ = read_tensors(folder / WEIGHTS)
    if program is None:
        program = build(_read_recipe(folder / _PROGRAM))
        program.to(next((t.dtype for t in tensors.values() if t.is_floating_point()), None))
    restore(as_module(program), tensors, folder / WEIGHTS)
    return program


def _read_recipe(path: Path) -> Any:
    try:
        recipe = without_references(json.loads(path.read_text(encoding="utf-8"))["recipe"])
    except FileNotFoundError:
        raise FileNotFoundError(f"found no {path.name} in {path.parent}, expected one beside {WEIGHTS}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a program description: {error!r}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: found no recipe (the program is not a packaged one), expected load(folder, program)")
    return recipe
