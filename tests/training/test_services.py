"""The services' libraries: named where they are missing, and like their stand-ins where they are installed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys

import pytest

from pyro_vae import training
from tests.support.services import SIGNATURES, MLflow, Trackio, WandB

NAMES = ("tensorboard", "wandb", "mlflow", "trackio")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_library_is_named_with_its_install_line(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(ImportError, match=rf"^{name}: found .*, expected a {name} .*: pip install {name}$"):
        getattr(training, name)(str(tmp_path))


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_stand_ins_have_the_signatures_of_the_libraries(name):
    real = pytest.importorskip(name)
    fake = {"wandb": WandB, "mlflow": MLflow, "trackio": Trackio}[name]()
    for path in SIGNATURES[name]:
        if path == "Run.config.update":
            found = importlib.import_module("wandb.sdk.wandb_config").Config.update
        else:
            found = pkgutil.resolve_name(f"{real.__name__}:{path}")
        theirs = inspect.signature(found).parameters
        ours = fake
        for part in path.split("."):
            ours = getattr(ours, part)
        for parameter in list(inspect.signature(ours).parameters):
            assert parameter in theirs or parameter in ("self", "run"), f"{path}: {parameter}"
