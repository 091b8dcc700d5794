"""The order in which rooms and files may import each other, and that importing the package does nothing else."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
DESIGN = (Path(__file__).parents[1] / "docs" / "design.rst").read_text(encoding="utf-8")
PICTURE, LIST = re.findall(r"\.\. code-block:: text\n\n((?:   .*\n)+)", DESIGN.partition("The order of the rooms")[2])
FILES = {path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
NAMES = sorted(".".join(path.parts) for path in FILES)


def listed() -> list[str]:
    """The files in the order of the documented list: ``errors``, ``runtime.allocation``, ..."""
    names, room = [], ""
    for line in LIST.splitlines():
        name = line.split()[0]
        if line.startswith("     "):
            names.append(f"{room}.{name}")
        elif name.endswith("/"):
            room = name[:-1]
        else:
            names.append(name)
    return names


def imported_by(name: str) -> set[str]:
    """The files under ``pyro_vae`` that a file imports, wherever in it the statement stands."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = [each.removeprefix("pyro_vae.") for each in found if each.partition(".")[0] == "pyro_vae"]
    files = {each if each in NAMES else each.rpartition(".")[0] for each in inside}
    return files


def room_of(name: str) -> str:
    return name.partition(".")[0]


def test_every_file_has_its_place():
    assert sorted(listed()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_file_imports_only_from_those_above_it(name):
    order = listed()
    rooms = list(dict.fromkeys(map(room_of, order)))
    for other in imported_by(name):
        if other in order:
            assert order.index(other) < order.index(name), f"{name} imports {other}"
        else:  # a room as a whole, which is another one
            assert rooms.index(other) < rooms.index(room_of(name)), f"{name} imports the room {other}"


def test_the_picture_shows_the_imports():
    arrows = {room_of(name): set() for name in NAMES}
    for name in NAMES:
        arrows[room_of(name)] |= {room_of(other) for other in imported_by(name)} - {room_of(name)}
    drawn = {}
    for line in PICTURE.splitlines():
        room, _, others = line.partition("→")
        drawn[room.strip()] = set(others.replace("·", "").split())
    assert drawn == arrows
    below = [line.split()[0] for line in PICTURE.splitlines()]
    assert below[::-1] == list(dict.fromkeys(map(room_of, listed())))


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
heavy = ["matplotlib", "torchvision", "sklearn", "scipy", "tensorboard", "PIL", "pandas", "polars", "pyarrow",
         "anndata", "zarr", "datasets", "h5py", "zuko", "jsonargparse", "yaml", "onnx", "onnxruntime", "onnxscript",
         "huggingface_hub", "wandb", "mlflow", "trackio"]
loaded = {name.partition(".")[0] for name in set(sys.modules) - modules}
assert not loaded & set(heavy), loaded & set(heavy)
late = {"zuko", "pyro_vae.compilation.layer_kernels"}  # flows need the one, a GPU the other
assert "pyro_vae.training.fitting" in sys.modules and not late & set(sys.modules)
print("nothing happened")
warnings.simplefilter("default")  # what zuko warns of is its own affair
base = torch.distributions.Distribution
before = base._validate_args, vars(base)["arg_constraints"]
pyro_vae.Flow("coupling", 2)
assert "zuko" in sys.modules
assert before == (base._validate_args, vars(base)["arg_constraints"]) and before[0]
print("validation is still on")
"""


def test_importing_has_no_side_effects(tmp_path):
    """Nor has that of zuko, with the first flow: it would switch validation off."""
    environment = os.environ | {
        "PYTHONPATH": str(PACKAGE.parent),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-W", "error", "-c", SIDE_EFFECTS]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "nothing happened\nvalidation is still on\n", "")
    assert list(tmp_path.iterdir()) == []
