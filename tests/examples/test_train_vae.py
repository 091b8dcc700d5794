"""train_vae.py trains, scores and draws every program and bound, and goes on after an interruption."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import pyro_vae
from pyro_vae.commands.summary import print_scores
from tests.examples.conftest import EXAMPLES, PICTURES


def test_train_then_evaluate(run, succeed, tmp_path):
    out = tmp_path / "run"
    text = succeed("train_vae.py", "--epochs", 3, "--latent-dim", 2, "--hidden-dims", 30, "--eval-particles", 30,
                   "--objective", "iwae", "--out", out)  # fmt: skip
    assert "test log-likelihood" in text and str(out) in text
    files = {path.name for path in out.iterdir()}
    assert files >= PICTURES | {"manifold.png", "latent_space.png", "config.json", "metrics.jsonl", "metrics.json"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["num_particles"] == 30 and metrics["active_units"] in (0, 1, 2)
    assert -60 < metrics["test_elbo"] < metrics["test_log_likelihood"] < -15
    assert 0 < metrics["test_log_likelihood_error"] < 1
    config = json.loads((out / "config.json").read_text())
    assert config["objective"] == "iwae" and config["num_particles"] == 5 and config["likelihood"] == "bernoulli"
    assert [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]

    text = succeed("evaluate.py", out, "--num-particles", 50)
    assert "Monte Carlo" in text and "ESS" in text and "k-hat" in text
    summary = json.loads((out / "evaluation.json").read_text())
    assert summary["num_particles"] == 50 and summary["num_data"] == 250
    difference = abs(summary["log_likelihood"] - metrics["test_log_likelihood"])
    assert difference < 0.5  # nats; same weights, and both Monte Carlo errors are below 0.05
    assert (out / "kl_per_unit.png").read_bytes().startswith(b"\x89PNG")
    diagnosis = summary["diagnosis"]
    assert diagnosis["active_units"] == {"z": metrics["active_units"]} and diagnosis["units"] == {"z": 2}
    assert sum(diagnosis["kl_per_unit"]["z"]) == pytest.approx(diagnosis["kl"]["z"])
    assert sum(diagnosis["fractions"].values()) == pytest.approx(1)
    assert diagnosis["num_data_mi"] == 250 and diagnosis["mutual_information_bound"] == pytest.approx(math.log(250))
    for shown in ("ELBO", "-KL", "active units", "Hoffman & Johnson", "aggregate KL"):
        assert shown in text
    for number in (diagnosis["mutual_information"], diagnosis["aggregate_kl"]):
        assert f"{number:.3f} ±" in text
    assert len(re.findall(r"^ELBO ", text, re.M)) == 1  # not that of the diagnosis, from other draws, beside it
    assert all(sentence in text for sentence in diagnosis["warnings"])

    again = run("train_vae.py", "--epochs", 3, "--out", out)
    assert again.returncode == 2 and "--resume" in again.stderr and again.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, shown",
    [
        (["--objective", "miwae", "--num-batches", 2, "--gradient", "dreg"],
         "MIWAE(num_batches=2, num_particles=5, gradient='dreg')"),
        (["--objective", "renyi", "--alpha", -1], "RenyiBound(alpha=-1.0, num_particles=5)"),
        (["--objective", "reweighted-wake-sleep"], "ReweightedWakeSleep(guide_phase='both', num_particles=5)"),
        (["--kl-weight", 4, "--warm-up", 1], "under Annealed(kl_weight=Linear(11, start=0, end=4))"),
        (["--free-bits", 0.5, "--kl-weight", 2], "under Annealed(kl_weight=2.0)"),
    ],
)  # fmt: skip
def test_bounds_and_weights_of_the_kl(succeed, tmp_path, arguments, shown):
    text = succeed("train_vae.py", "--epochs", 2, "--hidden-dims", 10, "--batch-size", 120, "--eval-particles", 5,
                   "--out", tmp_path / "run", *arguments)  # fmt: skip
    assert shown in text
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    if "--kl-weight" in arguments:
        assert records[1]["kl_weight"] == arguments[arguments.index("--kl-weight") + 1]
        assert records[1]["train_loss"] > -records[1]["train_bound"]  # more of the KL is more to lose


@pytest.mark.parametrize("precision", ["highest", pytest.param("bf16", marks=pytest.mark.cross)])
def test_compiled_or_not_it_is_the_same_run(run, tmp_path, monkeypatch, precision):
    monkeypatch.setattr("pyro_vae.compilation.compiled.inductor", lambda graph, inputs: graph)  # traced, no more
    metrics = []
    for choice in ("yes", "no"):
        done = run("train_vae.py", "--epochs", 2, "--hidden-dims", 10, "--eval-particles", 100, "--compile", choice,
                   "--precision", precision, "--out", tmp_path / choice)  # fmt: skip
        assert done.returncode == 0
        assert done.stderr.count("compiled the training step in") == done.stderr.count("compiled the likelihood in")
        assert ("compiled the training step in" in done.stderr) is (choice == "yes")
        metrics.append(json.loads((tmp_path / choice / "metrics.json").read_text()))
    compiled, eager = metrics
    assert compiled["test_log_likelihood"] == pytest.approx(eager["test_log_likelihood"], rel=1e-4)


HIERARCHIES = {
    "hvae": ["--latent-dims", 4, 2, "--hidden-dims", "10,8", "6,6", "--guide", "top-down"],
    "ladder": ["--latent-dims", 4, 3, 2, "--hidden-dims", 8, "--batch-norm", "--warm-up", 1],
    "conv-ladder": ["--num-layers", 2, 1, "--latent-channels", 1, 2, "--channels", 3, 3],
}
UNITS = {
    "hvae": {"z1": 4, "z2": 2},
    "ladder": {"z1": 4, "z2": 3, "z3": 2},
    "conv-ladder": {"z1": 16, "z2": 16, "z3": 2},
}


@pytest.mark.parametrize("program", ["hvae", "ladder", pytest.param("conv-ladder", marks=pytest.mark.cross)])
def test_hierarchies(succeed, tmp_path, program):
    out = tmp_path / "run"
    text = succeed("train_vae.py", "--program", program, *HIERARCHIES[program], "--epochs", 2, "--batch-size", 400,
                   "--eval-particles", 5, "--out", out)  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    layers = metrics["layers"]
    assert {name: layer["units"] for name, layer in layers.items()} == UNITS[program]
    for name, layer in layers.items():
        assert layer.keys() == {"kl", "active_units", "units"}
        assert layer["kl"] > -1 and 0 <= layer["active_units"] <= layer["units"]  # a sampled KL may be below 0
        assert re.search(rf"^  {name} +{layer['active_units']} of {layer['units']} +KL +-?\d+\.\d\d nats$", text, re.M)
    for total in ("units", "active_units"):
        assert metrics[total] == sum(layer[total] for layer in layers.values())
    assert -90 < metrics["test_elbo"] < metrics["test_log_likelihood"] < -15
    assert {path.name for path in out.glob("*.png")} == PICTURES | {"layer_samples.png", "layer_reconstructions.png"}
    assert json.loads((out / "config.json").read_text())["program"] == program
    assert "test log-likelihood" in text and pyro_vae.load(out).latents == tuple(layers)


def test_default_folder_is_a_new_one(succeed, tmp_path):
    for _ in range(2):
        succeed("train_vae.py", "--epochs", 1, "--hidden-dims", 10, "--eval-particles", 5, cwd=tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize("shape, pictures", [((40, 6, 5), PICTURES), ((40, 7), {"learning_curve.png"})])
def test_own_array(succeed, tmp_path, shape, pictures):
    np.save(tmp_path / "own.npy", np.random.default_rng(0).random(shape))
    succeed("train_vae.py", "--data", tmp_path / "own.npy", "--epochs", 2, "--batch-size", 8, "--hidden-dims", 10,
            "--eval-particles", 20, "--out", tmp_path / "run")  # fmt: skip
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == pictures
    assert json.loads((tmp_path / "run" / "config.json").read_text())["likelihood"] == "gaussian"


@pytest.mark.cross
def test_interrupted_run_resumes_to_the_same_weights(succeed, tmp_path):
    arguments = ["--epochs", "30", "--hidden-dims", "20", "--eval-particles", "5", "--out"]
    succeed("train_vae.py", *arguments, tmp_path / "whole")
    cut = tmp_path / "cut"
    own = "ignore:Implicitly cleaning up:ResourceWarning"  # of a folder that torch 2.6 leaves to the end
    script = [sys.executable, "-W", "error", "-W", own, str(EXAMPLES / "train_vae.py")]
    process = subprocess.Popen(
        [*script, *arguments, str(cut)], stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not (cut / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert f"--resume {cut}" in errors and "Traceback" not in errors
    assert not (cut / "metrics.json").exists()
    succeed("train_vae.py", "--resume", cut)
    weights = [(folder / "checkpoint.safetensors").read_bytes() for folder in (cut, tmp_path / "whole")]
    assert weights[0] == weights[1]
    scores = [json.loads((folder / "metrics.json").read_text()) for folder in (cut, tmp_path / "whole")]
    assert scores[0]["test_log_likelihood"] == scores[1]["test_log_likelihood"]


@pytest.mark.parametrize(
    ("value", "error", "mark", "shown"),
    [
        (-98.7654, 1.234, "", "     -98.8 ± 1.2 nats"),
        (-98.7654, 0.0312, "†", "   -98.765 ± 0.031† nats"),
        (-98.7654, 0.0036, "", "  -98.7654 ± 0.0036 nats"),
        (-98.7654, 0.00012, "", " -98.76540 ± 0.00012 nats"),
        (-98.7654, 0.0, "", "   -98.765 ± 0 nats"),
        (-98.7654, math.inf, "", "   -98.765 ± inf nats"),
    ],
)
def test_error_is_printed_to_a_digit_that_is_not_zero(capsys, value, error, mark, shown):
    metrics = {"test_elbo": -99.0, "test_log_likelihood": value, "test_log_likelihood_error": error}
    print_scores(metrics | {"num_particles": 5, "caveat": mark})
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("test log-likelihood  " + shown[1:])
