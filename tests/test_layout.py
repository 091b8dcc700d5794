"""Files and functions stay short enough to be read at one go."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(path for name in ("pyro_vae", "tests", "examples", "benchmarks") for path in (ROOT / name).rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 250, 60, 12
WITH_MANY_PARAMETERS = {"pyro_vae/training/fitting.py: fit", "pyro_vae/evaluation/likelihood.py: log_likelihood"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def functions() -> list[tuple[str, Function]]:
    """Return all functions, methods and functions inside others, each with its file and name."""
    return [
        (f"{path.relative_to(ROOT)}: {node.name}", node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, Function)
    ]


def num_lines(function: Function) -> int:
    """Count lines from ``def`` to the end, the docstring left out."""
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        length -= function.body[0].end_lineno - function.body[0].lineno + 1
    return length


def parameters(function: Function) -> list[str]:
    """Name the parameters, ``self`` and ``cls`` left out."""
    given = function.args
    found = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [each.arg for each in found if each is not None and each.arg not in ("self", "cls")]


def test_no_file_is_long():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {"pyro_vae/__init__.py", "tests/test_layout.py", "examples/train_vae.py"} <= lengths.keys()
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_function_is_long():
    assert {name: n for name, node in functions() if (n := num_lines(node)) > MOST_LINES_OF_A_FUNCTION} == {}


def test_no_function_has_many_parameters():
    counts = {name: len(parameters(node)) for name, node in functions()}
    assert counts.keys() >= WITH_MANY_PARAMETERS
    assert {name: n for name, n in counts.items() if n > MOST_PARAMETERS and name not in WITH_MANY_PARAMETERS} == {}


def test_what_is_counted():
    (function,) = ast.parse('def f(self, a, /, b, *c, d=1, **e):\n    """One\n\n    two."""\n    return a').body
    assert num_lines(function) == 2 and parameters(function) == ["a", "b", "c", "d", "e"]
