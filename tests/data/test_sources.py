"""The libraries and files that data come from: what is said when one is not installed."""

from __future__ import annotations

import sys

import pytest
import torch

from pyro_vae.data.loading import load
from pyro_vae.runtime import optional


class TestImports:
    """A library is imported when its data are asked for, and one that is missing or broken is named."""

    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
    def test_a_torchvision_made_for_another_torch(self, name, monkeypatch):
        real = optional.importlib.import_module

        def broken(module, *args):
            if module.startswith("torchvision"):
                raise RuntimeError("operator torchvision::nms does not exist")
            return real(module, *args)

        monkeypatch.setattr(optional.importlib, "import_module", broken)
        monkeypatch.setattr(optional, "version", {"torchvision": "0.28.0", "torch": "2.13.0+cpu"}.__getitem__)
        message = (
            rf"{name}: found torchvision 0.28.0 with torch 2.13.0\+cpu, expected .* can be imported: install the pair"
        )
        with pytest.raises(ImportError, match=message) as caught:
            load(name)
        assert "torchvision::nms" in str(caught.value.__cause__)
        assert len(load(torch.rand(20, 2)).train) == 16

    @pytest.mark.parametrize(
        ("name", "module", "package"),
        [
            ("mnist", "torchvision.datasets", "torchvision"),
            ("digits", "sklearn.datasets", "scikit-learn"),
            ("frey_faces", "scipy.io", "scipy"),
        ],
    )
    def test_a_library_that_is_not_installed(self, name, module, package, monkeypatch):
        def version(of):
            if of == package:
                raise optional.PackageNotFoundError(of)
            return "2.13.0"

        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setattr(optional, "version", version)
        message = rf"{name}: found no {package} with torch 2.13.0.*, expected a {package} that .*: "
        with pytest.raises(ImportError, match=message + r'pip install "pyro_vae\[images\]"$'):
            load(name)
