"""Fixtures that every test shares."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch

import pyro_vae

torch.set_num_threads(1)  # small tensors, and several test processes on few cores


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-cross", action="store_true", help="run the tests marked cross, too (make test-all)")


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("full_cross"):
        return "parts: in full cross"
    return "parts: any two meet in some test; `make test-all`, or --full-cross, runs them in full cross"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector the 600,000 objects of torch and of thousands of tests, which stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the full cross, unless it is asked for."""
    if config.getoption("full_cross"):
        return
    left_out = [item for item in items if item.get_closest_marker("cross")]
    if left_out:
        items[:] = [item for item in items if not item.get_closest_marker("cross")]
        config.hook.pytest_deselected(items=left_out)
        if hasattr(config, "workeroutput"):
            config.workeroutput["left_out"] = [item.nodeid for item in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Count what the first process of several has left out, each being given all tests, in the summary."""
    left_out = getattr(node, "workeroutput", {}).get("left_out")
    if left_out and node.gateway.id == "gw0":
        node.config.hook.pytest_deselected(items=[SimpleNamespace(nodeid=nodeid) for nodeid in left_out])


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    """Seed each test, and fail the one that leaves global state changed."""
    pyro.clear_param_store()
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes a third of what pytest needs for a test
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
    before = (torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.is_grad_enabled())
    validation = (pyro.infer.util.is_validation_enabled(), torch.distributions.Distribution._validate_args)
    yield
    pyro.clear_param_store()
    assert before == (torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.is_grad_enabled())
    assert validation == (pyro.infer.util.is_validation_enabled(), torch.distributions.Distribution._validate_args)


@pytest.fixture
def data_root() -> Path:
    """The folder with MNIST and Frey Face: ``PYRO_VAE_DATA``, or ``../shared/data`` beside the checkout."""
    root = Path(os.environ.get("PYRO_VAE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no data folder: set PYRO_VAE_DATA, or put one at {root}")
    return root


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; CUDA is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def double() -> Iterator[None]:
    """Run a test of exactness in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def vae() -> pyro_vae.VAE:
    """A VAE of 5 pixels and 3 latents, in float64."""
    return pyro_vae.VAE((5,), 3, (7,)).double()


@pytest.fixture
def x() -> torch.Tensor:
    """8 data for it, black and white."""
    return torch.bernoulli(torch.full((8, 5), 0.5, dtype=torch.float64))
