"""The package runs without the libraries of its extras, and names the extra where it needs one."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pyro_vae
from pyro_vae.runtime.optional import imported, install

ROOT = Path(pyro_vae.__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = {name: text.split() for name, text in SETUP["options.extras_require"].items()}
HEAVY = {"zarr", "datasets"}  # which bring many others; their tests are skipped without them

# The modules of what the extras install.
OPTIONAL = [
    "anndata",
    "datasets",
    "h5py",
    "huggingface_hub",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "PIL",
    "polars",
    "pyarrow",
    "scipy",
    "sklearn",
    "torchvision",
    "zarr",
]

COMMAND = SETUP["options.entry_points"]["console_scripts"].strip()

BARE = f"""
import pkgutil, sys
for name in {OPTIONAL}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
import torch, pyro_vae

vae = pyro_vae.VAE((5,), 2, (4,))
x = torch.bernoulli(torch.full((20, 5), 0.5)).numpy()
history = pyro_vae.fit(vae.model, vae.guide, x, num_epochs=1, batch_size=10, progress=False)
print(len(history.records))
print(pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles=10).values.shape)
print(pkgutil.resolve_name({COMMAND.split(" = ")[1]!r})([]))
for use in ("pyro_vae.data.load('digits')", "pyro_vae.data.load('mnist')", "import pyro_vae.plots",
            "import pyro_vae.estimator"):
    try:
        exec(use)
    except ImportError as error:
        print(error)
"""


@pytest.mark.cross
def test_fit_on_an_array_needs_no_extra_and_what_does_names_it():
    own = "ignore:Implicitly cleaning up:ResourceWarning"  # of a folder that torch 2.6 leaves to the end
    script = [sys.executable, "-W", "error", "-W", own, "-c", BARE]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    records, shape, *shown = done.stdout.splitlines()
    assert (records, shape) == ("1", "torch.Size([20])")
    assert shown[0].startswith("usage: pyro-vae ") and COMMAND.startswith("pyro-vae = ")
    assert shown[-5] == "0"  # the command's exit status, after its help
    extras = {"digits": "images", "mnist": "images", "plots": "report", "estimator": "images"}
    for message, (name, extra) in zip(shown[-4:], extras.items(), strict=True):
        assert message.startswith(f"{name}: found ")
        assert name == "mnist" or message.endswith(f": {install(extra)}")


def test_the_version_to_cite_is_that_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (pyro_vae.__version__, SETUP["metadata"]["license"])


def test_each_extra_is_part_of_all_and_of_the_tests():
    users = {"all", "test", "docs", "bench", "dev"}
    (everything,) = EXTRAS["all"]
    assert set(re.fullmatch(r"pyro_vae\[(.*)\]", everything)[1].split(",")) == EXTRAS.keys() - users - HEAVY
    assert "pyro_vae[all]" in EXTRAS["test"]


def test_ci_finds_the_lower_bound_of_each_requirement():
    (command,) = re.findall(r"sed -n '(.*)' setup\.cfg", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    found = subprocess.run(["sed", "-n", command, ROOT / "setup.cfg"], capture_output=True, text=True, check=True)
    extras = [line for name in EXTRAS.keys() - {"docs", "bench", "dev", *HEAVY} for line in EXTRAS[name]]
    required = [*SETUP["options"]["install_requires"].split(), *extras]
    expected = {line.replace(">=", "==") for line in required if "[" not in line}
    assert set(found.stdout.split()) == expected
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+", line) for line in expected)


def test_a_broken_library_is_told_from_a_missing_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)  # scipy itself is installed
    with pytest.raises(ImportError, match=r"^faces: found scipy [\d.]+ with torch .*, expected .*: reinstall it$"):
        imported("scipy.io", "scipy", "faces", install("images"), "reinstall it")
    with pytest.raises(ImportError, match=r'^x: found no no-such with torch .*: pip install "pyro_vae\[cells\]"$'):
        imported("no_such", "no-such", "x", install("cells"), "reinstall it")
