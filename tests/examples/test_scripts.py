"""Every example runs from the command line, fails with one clear line, and is listed here."""

from __future__ import annotations

import json
import math
import re

import pytest

from tests.examples.conftest import EXAMPLES

TESTED = {
    "custom_guide.py",
    "deeper_gaussian_layers.py",
    "evaluate.py",
    "plain_pyro.py",
    "semi_supervised.py",
    "train_vae.py",
    "two_lines.py",
    "vq_vae.py",
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


@pytest.mark.parametrize("script", sorted(TESTED))
def test_help(succeed, script):
    text = succeed(script, "--help")
    assert "python examples/" in text and "default" in text


def test_two_lines(run, succeed):
    text = succeed("two_lines.py", "--epochs", 2, "--latent-dim", 2, "--eval-particles", 20)
    lines = [line for line in text.splitlines() if "log p(x)" in line and not line.startswith("†")]
    plain, rich = (float(line.split()[3]) for line in lines)
    assert -70 < plain < -20 and -70 < rich < -20
    failed = run("two_lines.py", "--epochs", 0)
    assert failed.returncode == 2 and "num_epochs: found 0, expected a positive integer" in failed.stderr


def test_semi_supervised(run, succeed, tmp_path):
    out = tmp_path / "run"
    text = succeed("semi_supervised.py", "--epochs", 15, "--hidden-dims", 50, "--eval-particles", 5, "--out", out)
    assert "100 of them with labels" in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["test_error"] < 0.6  # of ten classes; at random it is 0.9
    assert -60 < metrics["test_elbo"] < metrics["test_log_likelihood"] < -15
    assert {path.name for path in out.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "samples.png",
    }
    failed = run("semi_supervised.py", "--num-labels", 15)
    assert failed.returncode == 2 and "--num-labels: found 15, expected a multiple of 10" in failed.stderr


def test_evaluating_no_run_is_refused(run, tmp_path):
    done = run("evaluate.py", tmp_path)
    assert done.returncode == 2 and "found no config.json" in done.stderr and "Traceback" not in done.stderr


def test_custom_guide(succeed):
    text = succeed("custom_guide.py", "--epochs", 2, "--eval-particles", 50)
    lines = re.findall(r"^[123]  \w+ +\w+ +(-[\d.]+) ± [\d.]+ +(-[\d.]+) ± [\d.]+ +(-?[\d.]+) ± ([\d.]+)", text, re.M)
    assert len(lines) == 3
    for elbo, log_p, gap, gap_error in ((float(number) for number in line) for line in lines):
        assert gap == pytest.approx(log_p - elbo, abs=2e-3)  # printed to three digits
        assert gap > 3 * gap_error  # log p(x) - ELBO is KL(q ‖ posterior), and no guide is exact after two epochs


def test_plain_pyro_agrees_with_the_package(succeed):
    text = succeed("plain_pyro.py", "--epochs", 2, "--eval-particles", 400)
    by_hand, packaged = (float(number) for number in re.search(r"same seed +(-[\d.]+) +(-[\d.]+)", text).groups())
    assert packaged == pytest.approx(by_hand, abs=1e-4)  # float32, some 30 nats
    pattern = r"log p\(x\), K = 400 +(-[\d.]+) ± ([\d.]+) +(-[\d.]+) ± ([\d.]+)"
    first, e1, second, e2 = (float(number) for number in re.search(pattern, text).groups())
    assert abs(first - second) < 4.5 * math.hypot(e1 + 5e-4, e2 + 5e-4) + 1e-3  # printed to three digits
