"""Saving and loading, with nothing executable inside.

``checkpoint.safetensors`` holds every parameter and buffer of a program, ``program.json`` the recipe that rebuilds a
packaged one. Both are data: opening a stranger's folder runs no code of theirs, and allocates no more than the weights
in it stand for.

Each carries a checksum, :mod:`pyro_vae.runtime.digests`, that is compared when it is read. The file of the weights
holds the recipe once more: a process that dies between the two files, while it writes another program over this one,
leaves the weights with the recipe that they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.inference.annealing import bare
from pyro_vae.inference.missing import ObservedOnly
from pyro_vae.nn.recipe_check import check_recipe
from pyro_vae.nn.recipes import Rebuildable, build, with_references, without_references
from pyro_vae.runtime.allocation import BoundedAllocation, TooLargeError
from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.digests import digest_of_data
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.tensor_files import CHANGED, DIGEST, parse, read_tensors, write_tensors

__all__ = [
    "as_module",
    "check_tensors",
    "load",
    "recipe_of",
    "restore",
    "save",
]

WEIGHTS, _PROGRAM = "checkpoint.safetensors", "program.json"
_FORMAT = 1


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


def recipe_of(module: nn.Module) -> Any:
    """Return the recipe by which a file can rebuild what :func:`as_module` returned, or ``None`` if it has none.

    Raises
    ------
    ValueError
        If the program is no longer what its recipe says.
    """
    if isinstance(module, nn.ModuleDict):  # a pair that fit was given: the two halves of one packaged program?
        recipes = [getattr(module[half], "recipe", None) for half in ("model", "guide")]
        recipe = recipes[0] if recipes[0] == recipes[1] and isinstance(recipes[0], dict) else None
    else:  # a half alone has a recipe too, but of the whole
        recipe = module.recipe if isinstance(module, Rebuildable) else None
    if recipe is not None:
        check_recipe(recipe, module)
    return recipe


def check_tensors(program: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Refuse tensors that are not those of a program, by name, shape and kind of number.

    A float may be another float: it is rounded when it is copied.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape or type differs.
    """
    expected = program.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        found_shape = tuple(tensors[name].shape) if name in tensors else "nothing"
        expected_shape = tuple(expected[name].shape) if name in expected else "nothing"
        if found_shape != expected_shape:
            raise ValueError(f"{source}: leaf {name!r}: found {found_shape}, expected {expected_shape}")
        found_dtype, expected_dtype = tensors[name].dtype, expected[name].dtype
        if found_dtype != expected_dtype and not {found_dtype, expected_dtype} <= _FLOATS:
            raise ValueError(f"{source}: leaf {name!r}: found {found_dtype}, expected {expected_dtype}")


_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def restore(program: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Copy named tensors into a program's parameters and buffers.

    Raises
    ------
    ValueError
        If a name is missing or unknown or a shape or type differs; nothing is copied then.
    """
    check_tensors(program, tensors, source)
    program.load_state_dict(dict(tensors))


@checked
def save(program: Any, folder: PathLike) -> None:
    """Write a program's weights, and its recipe if it has one, into ``folder``.

    Parameters
    ----------
    program
        A packaged program such as :class:`pyro_vae.VAE`, any module, or a pair ``(model, guide)``.
    folder
        Made when missing. Each file is replaced whole or not at all.

    Raises
    ------
    ValueError
        If a part of a packaged program was replaced or changed after the program was built, so that it could not be
        rebuilt; the message names the part.
    OSError
        If a file cannot be written; the error names it, and what was there before stays.

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
    recipe = with_references(recipe_of(module))
    description = {"format": _FORMAT, "recipe": recipe, DIGEST: digest_of_data(recipe)}
    write_text(folder / _PROGRAM, json.dumps(description, indent=2) + "\n")
    write_tensors(folder / WEIGHTS, module.state_dict(), {"recipe": json.dumps(recipe)})


@checked
def load(folder: PathLike, program: Any = None, *, verify: bool = True) -> Any:
    """Read back what :func:`save` or :func:`pyro_vae.fit` wrote.

    Parameters
    ----------
    folder
        The folder.
    program
        Where to load the weights: a module or a pair ``(model, guide)``, as given to ``save`` or ``fit``. ``None``
        rebuilds a packaged program from its recipe, on the CPU and in the dtype it was saved with.
    verify
        Compare the checksums. ``False`` says that you know that a file was changed; the recipe is then that of
        ``program.json``.

    Returns
    -------
    The program, with the weights in it.

    Raises
    ------
    FileNotFoundError
        If the folder holds no checkpoint.
    ValueError
        If the checkpoint does not fit the program (the message names the leaf and both shapes), is damaged, was changed
        since it was written, describes a program that its weights are too few for, or has no recipe while no program is
        given.
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    tensors, metadata = read_tensors(path, verify=verify)
    if program is None:
        try:
            program = _rebuilt(folder / _PROGRAM, metadata.get("recipe"), tensors, verify)
        except RecursionError:
            raise ValueError(f"{folder / _PROGRAM}: found parts in parts without end, expected a program's") from None
        check_tensors(program, tensors, path)
        program.to(next((t.dtype for t in tensors.values() if t.is_floating_point()), None))
    restore(as_module(program), tensors, path)
    return program


def _rebuilt(path: Path, beside: str | None, tensors: Mapping[str, Tensor], verify: bool) -> nn.Module:
    """Build the program in ``path``, or the one that is described beside the tensors."""
    recipe, is_signed = _read_recipe(path, verify)
    if verify and beside is not None:
        written = parse(path.parent / WEIGHTS, beside)
        if written != recipe and not is_signed:
            raise ValueError(f"{path}: {CHANGED}")
        if written != recipe:  # it is whole, and describes weights that were never written
            path, recipe = path.parent / WEIGHTS, written
    try:
        recipe = without_references(recipe)
        if not isinstance(recipe, dict):
            raise ValueError("found no recipe (the program is not a packaged one), expected load(folder, program)")
        with BoundedAllocation(tensors.values()):
            program = build(recipe)
    except TooLargeError as error:
        raise ValueError(f"{path}: {error}; load(folder, program) takes one that you have built") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return program


def _read_recipe(path: Path, verify: bool) -> tuple[Any, bool]:
    """Read a recipe as it is in the file, and whether it has a checksum."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"found no {path.name} in {path.parent}, expected one beside {WEIGHTS}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a program description: {error}") from error
    try:
        data = json.loads(text)
        recipe, form, digest = data["recipe"], data["format"], data.get(DIGEST)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a program description: {error!r}") from error
    if type(form) is not int or form != _FORMAT:
        raise ValueError(f"{path}: found a description in format {form!r}, expected {_FORMAT}")
    if verify and digest is not None and digest != digest_of_data(recipe):
        raise ValueError(f"{path}: {CHANGED}")
    return recipe, digest is not None
