"""Every example runs from the command line, fails with one clear line, and is listed here."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.runtime import tensor_files

EXAMPLES = Path(__file__).parents[1] / "examples"
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
PICTURES = {"learning_curve.png", "reconstructions.png", "samples.png"}


@dataclass
class Done:
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys, monkeypatch):
    """Run an example's ``main`` in this process, as ``python examples/SCRIPT ARGUMENTS`` would."""

    def call(script: str, *arguments: object, cwd: Path | None = None) -> Done:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        try:
            code = importlib.import_module(Path(script).stem).main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


@pytest.fixture
def succeed(run):
    def call(*arguments: object, **options: Path) -> str:
        done = run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


@pytest.mark.parametrize("script", sorted(TESTED))
def test_help(succeed, script):
    text = succeed(script, "--help")
    assert "python examples/" in text and "default" in text


def test_two_lines(run, succeed):
    text = succeed("two_lines.py", "--epochs", 2, "--latent-dim", 2, "--eval-particles", 20)
    plain, rich = (float(line.split()[3]) for line in text.splitlines() if "log p(x)" in line)
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
    for number in (diagnosis["elbo"], diagnosis["mutual_information"], diagnosis["aggregate_kl"]):
        assert f"{number:.3f} ±" in text
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


@pytest.mark.parametrize("precision", ["highest", "bf16"])
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


@pytest.mark.parametrize("program", HIERARCHIES)
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


def test_only_the_ladder_warms_up_unasked(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    train_vae = importlib.import_module("train_vae")
    given = {"ladder": 10, "hvae": 0, "conv-ladder": 0, "vae": 0}
    assert {name: train_vae.parse(["--program", name, "--epochs", "40"]).warm_up for name in given} == given
    assert train_vae.parse(["--program", "ladder", "--warm-up", "0"]).warm_up == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["10,8", "6"], [[10, 8], [6]]),
        (["6", "10,8"], [[6], [10, 8]]),
        (["10", "8"], [10, 8]),
        ([], []),
    ],
)
def test_hidden_widths_of_each_layer(monkeypatch, tmp_path, given, expected):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    train_vae = importlib.import_module("train_vae")
    arguments = ["--program", "hvae", "--latent-dims", "4", "2", "--out", str(tmp_path), "--hidden-dims", *given]
    config, _ = train_vae.configure(train_vae.parse(arguments))
    assert config["hidden_dims"] == json.loads(json.dumps(config))["hidden_dims"] == expected
    hvae = pyro_vae.HVAE((4, 4), config["latent_dims"], config["hidden_dims"])
    widths = [
        [layer.out_features for layer in q.network.hidden if hasattr(layer, "out_features")] for q in hvae.posteriors
    ]
    assert widths == (expected if expected and isinstance(expected[0], list) else [expected] * 2)


@pytest.mark.parametrize(
    ("program", "arguments", "takers"),
    [
        ("hvae", ["--latent-dim", 3], "vae"),
        ("vae", ["--latent-dims", 3, 2], "hvae or ladder"),
        ("conv-ladder", ["--hidden-dims", 30], "vae or hvae or ladder"),
        ("conv-ladder", ["--activation", "tanh"], "vae or hvae or ladder"),
        ("ladder", ["--guide", "top-down"], "hvae"),
        ("hvae", ["--batch-norm"], "ladder"),
        *(
            ("ladder", [f"--{name}", 1], "conv-ladder")
            for name in ("num-layers", "latent-channels", "channels", "num-blocks")
        ),
    ],
)
def test_options_of_another_program_are_refused(run, tmp_path, program, arguments, takers):
    done = run("train_vae.py", "--program", program, *arguments, cwd=tmp_path)
    message = f"argument {arguments[0]}: found one beside --program {program}, expected --program {takers}\n"
    assert done.returncode == 2 and done.stderr.endswith(message) and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*"))


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


def test_interrupted_run_resumes_to_the_same_weights(succeed, tmp_path):
    arguments = ["--epochs", "30", "--hidden-dims", "20", "--eval-particles", "5", "--out"]
    succeed("train_vae.py", *arguments, tmp_path / "whole")
    cut = tmp_path / "cut"
    script = [sys.executable, "-W", "error", str(EXAMPLES / "train_vae.py")]
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
    "arguments, message",
    [
        (["--data", "imagenet"], "digits.*'imagenet'"),
        (["--data", "missing.npy"], "missing.npy"),
        (["--latent-dim", 0], "--latent-dim: found 0"),
        (["--objective", "vi"], "invalid choice: 'vi'"),
        (["--batch-size", 5000], "batch_size: found 5000, expected at most .*1297"),
        (["--resume", "nowhere"], "--resume: found no config.json in nowhere"),
        (["--likelihood", "bernoulli", "--binarize", "none"], "outside the support of site 'x'"),
        (["--lr", -1], "lr: found -1"),
        (["--alpha", 0.5], "--alpha: found one beside --objective elbo, expected --objective renyi"),
        (["--objective", "iwae", "--num-batches", 2], "--num-batches: .* expected --objective miwae or piwae"),
        (["--objective", "wake-sleep", "--gradient", "stl"], "--gradient: found stl, expected reparam"),
        (["--objective", "ciwae", "--beta", 2], "beta: found 2.0, expected a number in .0, 1."),
        (["--kl-weight", -1], "weight: found -1.0"),
        (["--warm-up", 2], "--warm-up: found 2, expected at most the 1 epochs"),
        (["--program", "flow"], "invalid choice: 'flow'"),
        (["--program", "hvae", "--latent-dims", 3, 0], r"latent_dims: found \[3, 0\], expected the length"),
        (["--program", "hvae", "--latent-dims", 3, 2, "--hidden-dims", "5,5"], r"hidden_dims: found \[\[5, 5\]\]"),
        (["--program", "conv-ladder", "--channels", 4, 4], r"channels: found \(4, 4\), expected one for each of 3"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "torch sees no CUDA device")]),
    ],
)
def test_wrong_arguments_are_named_in_one_line(run, tmp_path, arguments, message):
    done = run("train_vae.py", "--epochs", 1, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(message, done.stderr) and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[", "Expecting value"),
        ("3", "found int, expected the settings by name"),
        ({"epochs": "many"}, "argument --epochs: invalid int value: 'many'"),
        ({"epochs": 1.5}, "argument --epochs: invalid int value: '1.5'"),
        ({"batch_size": True}, "argument --batch-size: invalid int value: 'True'"),
        ({"program": "gan"}, "argument --program: invalid choice: 'gan'"),
        ({"objective": ["elbo", "iwae"]}, "unrecognized arguments: iwae"),
        ({"hidden_dims": [0.5]}, "argument --hidden-dims: invalid widths value: '0.5'"),
        ({"latent_dim": None}, "VAE: found .* latent_dim=None, expected both"),
        ({"hidden_dims": [10**9]}, r"MB to be allocated, expected at most \d+ MB"),
        ({"hidden_dims": [1] * 10**5}, "found more than 96 tensors to be made"),
        ({"seed": 2**70}, "argument --seed: found 1180591620717411303424, expected an integer of 64 bits"),
        ({"lr": {}}, "argument --lr: invalid float value: '{}'"),
        ({"data": ...}, "found no 'data', expected one as in every run"),
    ],
)
def test_damaged_settings_are_named_in_one_sentence(monkeypatch, tmp_path, change, message):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    train_vae = importlib.import_module("train_vae")
    config, _ = train_vae.configure(train_vae.parse(["--hidden-dims", "5", "--out", str(tmp_path / "run")]))
    tensor_files.write_tensors(tmp_path / "last.safetensors", pyro_vae.VAE((4, 4), 10, (5,)).state_dict())
    splits = SimpleNamespace(data_shape=(4, 4), train=torch.full((4, 4), 0.5))
    text = change if isinstance(change, str) else {k: v for k, v in (config | change).items() if v is not ...}
    (tmp_path / "config.json").write_text(change if isinstance(change, str) else json.dumps(text))
    with pytest.raises(ValueError, match=f"^{tmp_path / 'config.json'}: .*({message})"):
        train_vae.build(train_vae.read_config(tmp_path, "--resume"), splits, tmp_path)


def test_settings_as_they_were_written_are_read_back(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    train_vae = importlib.import_module("train_vae")
    for given in (
        [],
        ["--program", "hvae", "--hidden-dims", "6", "10,8"],
        ["--program", "ladder", "--batch-norm"],
        ["--program", "conv-ladder"],
        ["--objective", "renyi", "--alpha", "-0.5", "--lr", "1e-4"],
    ):
        config, _ = train_vae.configure(train_vae.parse([*given, "--out", str(tmp_path / "run")]))
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert train_vae.read_config(tmp_path, "--resume") == config


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
