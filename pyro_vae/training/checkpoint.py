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

from pyro_vae.inference.isolation import kept_in_store
from pyro_vae.inference.parameters import StoreParams, params_for
from pyro_vae.nn.recipes import build, with_references, without_references
from pyro_vae.runtime.allocation import BoundedAllocation, TooLargeError
from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.digests import digest_of_data
from pyro_vae.runtime.files import write_text
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.tensor_files import CHANGED, DIGEST, parse, read_tensors, write_tensors
from pyro_vae.training.modules import (
    as_module,
    is_pair,
    params_of,
    recipe_of,
    refuse_another_program,
    warn_of_own_parts,
)
from pyro_vae.training.plain import named

__all__ = [
    "as_module",
    "check_tensors",
    "load",
    "recipe_of",
    "restore",
    "save",
    "write_program",
]

WEIGHTS, PROGRAM, _PARAMS = "checkpoint.safetensors", "program.json", "params"
_FORMAT = 1


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
        A packaged program such as :class:`pyro_vae.VAE`, any module, or a pair ``(model, guide)`` of programs as SVI
        takes them. With a pair that is not packaged goes what bare ``pyro.param`` statements keep in Pyro's parameter
        store, all of it, as no one can say without data what is the pair's; the checkpoints of :func:`pyro_vae.fit`
        hold that of the pair alone. A packaged program with parts of your own is saved without a recipe, and a warning
        names their classes: :func:`load` then takes a program that was built with their code.
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
    recipe = recipe_of(module)
    if recipe is None and is_pair(program):
        module = as_module(program, StoreParams(kept_in_store()))
    warn_of_own_parts(module, recipe, stacklevel=3)
    write_program(module, Path(folder))


def write_program(module: nn.Module, folder: Path) -> None:
    """Write what :func:`as_module` returned, as :func:`save` does, without a word about parts of one's own."""
    recipe = with_references(recipe_of(module))
    description = {"format": _FORMAT, "recipe": recipe, DIGEST: digest_of_data(recipe)}
    metadata = {"recipe": json.dumps(recipe)}
    if params := params_of(module):
        metadata[_PARAMS] = json.dumps(params.descriptions())
    write_text(folder / PROGRAM, json.dumps(description, indent=2) + "\n")
    write_tensors(folder / WEIGHTS, module.state_dict(), metadata)


@checked
def load(folder: PathLike, program: Any = None, *, verify: bool = True) -> Any:
    """Read back what :func:`save` or :func:`pyro_vae.fit` wrote.

    Parameters
    ----------
    folder
        The folder.
    program
        Where to load the weights: a module or a pair ``(model, guide)``, as given to ``save`` or ``fit``. Bare
        parameters go to Pyro's parameter store. ``None`` rebuilds a packaged program from its recipe, on the CPU and in
        the dtype it was saved with.
    verify
        Compare the checksums, and a packaged ``program`` with the recipe of the one that was saved. ``False`` says that
        you know that a file or the program was changed; a program is then built by ``program.json``.

    Returns
    -------
    The program, with the weights in it.

    Raises
    ------
    FileNotFoundError
        If the folder holds no checkpoint.
    ValueError
        If the checkpoint does not fit the program (the message names the leaf and both shapes), holds another packaged
        program, as one with another activation (the message names the part), is damaged, was changed
        since it was written, describes a program that its weights are too few for, or has no recipe while no program is
        given.
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    tensors, metadata = read_tensors(path, verify=verify)
    is_given = program is not None
    if not is_given:
        try:
            program = _rebuilt(folder / PROGRAM, metadata.get("recipe"), tensors, verify)
        except RecursionError:
            raise ValueError(f"{folder / PROGRAM}: found parts in parts without end, expected a program's") from None
        check_tensors(program, tensors, path)
        program.to(next((t.dtype for t in tensors.values() if t.is_floating_point()), None))
    device = placement(*program)[0] if is_pair(program) else None
    params = params_for(parse(path, metadata.get(_PARAMS, "{}")), named(tensors, "params."), device, path)
    module = as_module(program, params)
    try:
        check_tensors(module, tensors, path)
        if is_given and verify:
            recipe, advice = metadata.get("recipe", "null"), "; verify=False takes its weights all the same"
            refuse_another_program(path, parse(path, recipe), module, tensors.values(), advice)
        restore(module, tensors, path)
    except ValueError as error:
        unset = [part for part in module.modules() if getattr(part, "prototype_trace", part) is None]
        if not unset:
            raise
        raise ValueError(
            f"{error}; {type(unset[0]).__name__} has no parameters before it was called once with data, as guide(x)"
        ) from error
    params.put_in_store()
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
