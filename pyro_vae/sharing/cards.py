"""A model card: what a program is, what it scored, with errors, and how to load it, as Markdown with a YAML header.

The header is that of the Hugging Face Hub, and the text stands for itself in any repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from typing import Any

from torch import nn

from pyro_vae.evaluation.evaluations import COLUMNS, Evaluation
from pyro_vae.nn.recipes import with_references
from pyro_vae.runtime.arguments import checked
from pyro_vae.training.modules import as_module, own_parts, recipe_of

__all__ = ["model_card"]

_TAGS = ["variational-autoencoder", "generative-model", "pyro", "pytorch"]
_SAMPLED = ("VAE", "HVAE", "LadderVAE", "ConvLadderVAE")  # whose data go without labels and covariates
_LIBRARIES = {"torch": "torch", "Pyro": "pyro-ppl"}


@checked
def model_card(
    program: Any,
    evaluation: Evaluation | None = None,
    *,
    title: str | None = None,
    data: str | None = None,
    license: str | None = None,
    repo_id: str | None = None,
    notes: str = "",
) -> str:
    """Return a model card as Markdown.

    Parameters
    ----------
    program
        A program, or a pair ``(model, guide)``.
    evaluation
        What :func:`pyro_vae.evaluate` returned: the table of the card, with errors, marks and notes.
    title
        Of the card; by default the name in ``repo_id``, or the class of the program.
    data
        The data that the program was trained on and evaluated with, in your words.
    license
        Of the weights, as the Hub names it: ``"mit"``, ``"apache-2.0"``, ``"cc-by-4.0"``, ``"other"``.
    repo_id
        Where the program will be, ``"user/name"``, for the lines that load it.
    notes
        Further text in Markdown: intended use, limits, how the data were split.

    Raises
    ------
    ValueError
        If a part of a packaged program was replaced after it was built.

    Examples
    --------
    >>> import pyro_vae
    >>> vae = pyro_vae.VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> print(model_card(vae, data="four coins", license="mit").partition("# VAE")[0])
    ---
    library_name: pyro_vae
    license: mit
    tags:
    - variational-autoencoder
    - generative-model
    - pyro
    - pytorch
    ---
    <BLANKLINE>
    <BLANKLINE>
    """
    import yaml  # only here, as a bare import of the package does without it

    module = as_module(program)
    recipe = recipe_of(module)
    name = recipe["class"] if recipe is not None else type(program).__name__
    if isinstance(program, (tuple, list)):
        name = " and ".join(getattr(half, "__name__", type(half).__name__) for half in program)
    header = {"library_name": "pyro_vae", "license": license, "tags": _TAGS}
    text = yaml.safe_dump({key: value for key, value in header.items() if value is not None}, sort_keys=False)
    parts = [
        f"---\n{text}---",
        f"# {title or (repo_id or name).rpartition('/')[2]}",
        _lead(module, name),
        f"**Data:** {data or 'not named.'}",
        f"**License:** {license or 'not named.'}",
        notes.strip(),
        "## Evaluation",
        "Not evaluated." if evaluation is None else _results(evaluation),
        "## Load it",
        _how_to_load(recipe, repo_id, ", ".join(own_parts(module)) or name),
        *([] if recipe is None else ["## Program", f"```json\n{json.dumps(with_references(recipe), indent=2)}\n```"]),
        _versions(),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _lead(module: nn.Module, name: str) -> str:
    number = sum(parameter.numel() for parameter in module.parameters())
    return (
        f"A variational autoencoder for pyro_vae, `{name}`, with {number:,} parameters: two Pyro programs, a model "
        "p(x, z) and a guide q(z|x)."
    )


def _results(evaluation: Evaluation) -> str:
    """Return the table and the sentences of an evaluation."""
    rows = [("", *COLUMNS), ("---", *["---:"] * len(COLUMNS))]
    rows += [(evaluation.labels[name], *figure.cells()) for name, figure in evaluation.figures.items()]
    return "\n".join([*map(_row, rows), "", *(f"- {sentence}" for sentence in evaluation.sentences())])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _how_to_load(recipe: Any, repo_id: str | None, own: str) -> str:
    """Return the lines that load the program; one that is not packaged takes its code."""
    call = 'pyro_vae.load("FOLDER"' if repo_id is None else f'pyro_vae.from_hub("{repo_id}", revision="COMMIT"'
    if recipe is None:
        told = f"The files hold the weights and not the code of {own}: build the program first.\n\n"
        return f"{told}```python\nimport pyro_vae\n\nprogram = ...\n{call}, program=program)\n```"
    lines = ["import pyro_vae", "", f"program = {call})"]
    if recipe["class"] in _SAMPLED:
        score = "score = pyro_vae.log_likelihood(program.model, program.guide, x)"
        lines += ["x = program.sample(16)", score]
    code = "\n".join(lines)
    return f"```python\n{code}\n```\n\nThe files are safetensors and JSON: loading them runs no code."


def _versions() -> str:
    versions = {"pyro_vae": import_module("pyro_vae").__version__}
    versions |= {name: version(package) for name, package in _LIBRARIES.items()}
    return "Written by " + ", ".join(f"{name} {number}" for name, number in versions.items()) + "."
