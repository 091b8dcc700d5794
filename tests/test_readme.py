"""The README is true: its Python runs as it stands, its links lead somewhere, and what it names exists."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import pyro_vae

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINKS = re.findall(r"\]\(([^)#]+)|<img src=\"([^\"]+)\"", README)
TABLE = README.split("## What there is")[1].split("##")[0]


def test_its_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # it saves to a folder
    found: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), found)
    assert re.search(r"log p\(x\) = -2\d\.\d+ ± 0\.\d+ nats, the mean of 250 data", capsys.readouterr().out)
    assert isinstance(found["images"], torch.Tensor) and found["images"].shape == (16, 8, 8)
    assert isinstance(found["vae"], pyro_vae.VAE) and (tmp_path / "digits-vae").is_dir()


@pytest.mark.parametrize("target", sorted({target or image for target, image in LINKS}))
def test_its_links_lead_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Za-z]\w*)`", TABLE))))
def test_the_package_has_what_it_names(name):
    assert hasattr(pyro_vae, name) or find_spec(f"pyro_vae.{name}") is not None  # a room that is not yet imported


def test_it_names_every_class_but_networks_and_results():
    others = {"Comparison", "ConditionalMLP", "ConcurrentRunError", "Diagnosis", "Evaluation", "Flow", "History",
              "ImageDecoder", "ImageEncoder", "Imputation", "LogLikelihood", "MLP", "Objective", "ProgramError",
              "RankError", "Refinement", "Sandwich", "Scores", "Threshold"}  # fmt: skip
    codes = {"AutoregressiveCodes", "Codebook", "IndependentCodes"}  # of VQVAE
    zero_inflated = {"ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"}  # "both also zero-inflated"
    classes = {name for name in pyro_vae.__all__ if isinstance(getattr(pyro_vae, name), type)}
    assert classes - set(re.findall(r"`(\w+)`", TABLE)) == others | codes | zero_inflated
