"""Run each page as a doctest in an empty folder of its own, with Pyro's parameter store left empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

import pyro_vae

torch.set_num_threads(1)  # small tensors, and several test processes on few cores


# What `make test` leaves to `make test-all`: building the pages runs the gallery, too, and the other has no code of its
# own.
FOLDER = Path(__file__).parent
RUN_ELSEWHERE = {FOLDER / "gallery.rst", FOLDER / "zh" / "quickstart.rst"}


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path in RUN_ELSEWHERE:
        item.add_marker(pytest.mark.cross)


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a page write files by short names, and seed what it draws."""
    monkeypatch.chdir(tmp_path)
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture(autouse=True)
def short_gallery(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the models of the gallery for two epochs: building the pages runs the same code in full."""
    if request.node.name == "gallery.rst":
        fit = pyro_vae.fit

        def briefly(*args: Any, num_epochs: int, **options: Any) -> Any:
            return fit(*args, num_epochs=min(num_epochs, 2), **options)

        monkeypatch.setattr(pyro_vae, "fit", briefly)
