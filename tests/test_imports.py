"""The order in which the parts may import each other, and that importing the package does nothing else."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
DESIGN = Path(__file__).parents[1] / "docs" / "design.rst"
LIST = DESIGN.read_text(encoding="utf-8").partition("imports only from modules above it")[2].split("\n\n")[2]
ORDER = [line.split()[0] for line in LIST.splitlines()][:-1]  # as documented; the last is plots
ALONE = ["plots"]  # imports nothing internal
SOURCES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


def part(path: Path) -> str:
    """The entry of the list that a file belongs to: a folder is one entry."""
    return path.parts[0].removesuffix(".py")


def internal_imports(path: Path) -> set[str]:
    """The names under ``pyro_vae`` that a file imports, wherever in it the statement stands."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] == "pyro_vae"}


def test_every_file_has_its_place():
    assert {part(path) for path in SOURCES} == {*ORDER, *ALONE}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_imports_only_from_those_above_it(path):
    if part(path) in ALONE:
        assert internal_imports(path) == set()
        return
    allowed = ORDER[: ORDER.index(part(path))]
    inside = [part(path)] if len(path.parts) > 1 else []  # a folder's files import each other
    for name in internal_imports(path):
        imported = name.split(".")[1]
        assert imported in [*allowed, *inside], f"{path} imports {name}"


def test_no_file_inside_a_folder_imports_the_folder_itself():
    for path in SOURCES:
        if len(path.parts) > 1:
            assert not {n for n in internal_imports(path) if n.split(".")[1] == part(path) and len(n.split(".")) < 4}, (
                path
            )


def test_the_public_names_are_all_there_once():
    assert len(set(pyro_vae.__all__)) == len(pyro_vae.__all__)
    assert all(hasattr(pyro_vae, name) for name in pyro_vae.__all__)


SIDE_EFFECTS = """
import random, sys, signal, logging, warnings
import numpy, torch, pyro
from pathlib import Path

def state():
    return {
        "param store": dict(pyro.get_param_store().items()),
        "dtype": torch.get_default_dtype(),
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": numpy.random.get_state()[1].tolist(),
        "python generator": random.getstate(),
        "pyro validation": pyro.infer.util.is_validation_enabled(),
        "torch validation": torch.distributions.Distribution._validate_args,
        "precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "interrupt": signal.getsignal(signal.SIGINT),
        "log level": logging.getLogger().level,
        "warnings": list(warnings.filters),
        "files": sorted(map(str, Path.cwd().rglob("*"))),
    }

before, modules = state(), set(sys.modules)
import pyro_vae
after = state()
assert before.keys() == after.keys()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed
heavy = ["matplotlib", "torchvision", "sklearn", "scipy", "tensorboard", "PIL"]
loaded = {name.partition(".")[0] for name in set(sys.modules) - modules}
assert not loaded & set(heavy), loaded & set(heavy)
print("nothing happened")
"""


def test_importing_has_no_side_effects(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(PACKAGE.parent),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-W", "error", "-c", SIDE_EFFECTS]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "nothing happened\n", "")
    assert list(tmp_path.iterdir()) == []
