"""Load Pyro's examples from a checkout, without what they need for data and pictures alone.

A script is imported, of a notebook only the cells are run that define something asked for. Packages that are not
installed are replaced by stand-ins while that happens: no program that is run here uses them.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

__all__ = ["notebook", "script"]

_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
NOT_NEEDED = ("corner", "observations", "pandas", "scanpy", "seaborn", "visdom", "wget")  # data and pictures


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let imports look into a folder first, and forget afterwards what came from there or was a stand-in."""
    missing = [name for name in NOT_NEEDED if name not in sys.modules and importlib.util.find_spec(name) is None]
    before = dict(sys.modules)
    sys.path.insert(0, str(folder))
    sys.modules.update({name: MagicMock() for name in missing})
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            here = isinstance(file, str) and Path(file).is_relative_to(folder)
            if name not in before and (name.partition(".")[0] in missing or here):
                del sys.modules[name]


def script(source: Path, path: str) -> ModuleType:
    """Import a script of a checkout, such as ``examples/vae/vae.py``; modules beside it are found."""
    file = source / path
    if not file.is_file():
        raise FileNotFoundError(f"--pyro-source: found no {path} in {source}, expected a checkout of Pyro")
    spec = importlib.util.spec_from_file_location(f"pyro_example_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _importing_from(file.parent):
        spec.loader.exec_module(module)
    return module


def notebook(source: Path, path: str, *marks: str, all_statements: bool = True) -> dict[str, Any]:
    """Run the code cells of a notebook that contain one of the marks, and return what they define.

    Without ``all_statements``, run their imports, classes and functions alone.
    """
    file = source / path
    if not file.is_file():
        raise FileNotFoundError(f"--pyro-source: found no {path} in {source}, expected a checkout of Pyro")
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for mark in marks:
        if not any(mark in text for text in texts):
            raise ValueError(f"{path}: found no cell with {mark!r}, expected the notebook of Pyro 1.9")
    names: dict[str, Any] = {"__name__": f"pyro_notebook_{file.stem}"}
    with _importing_from(file.parent):
        for text in texts:
            if any(mark in text for mark in marks):
                tree = ast.parse(text)
                if not all_statements:
                    tree.body = [node for node in tree.body if isinstance(node, _DEFINITIONS)]
                exec(compile(tree, str(file), "exec"), names)
    return names
