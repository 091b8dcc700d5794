"""The console command: each of its commands on one small run, settings from files, help, and errors in one line."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pyro_vae
from pyro_vae.commands import console, training
from pyro_vae.commands.failures import exit_status
from pyro_vae.commands.options import SETTINGS, flag
from pyro_vae.runtime.state import seeded

COMMANDS = ("train", "evaluate", "report", "sample", "score", "export")


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run the command in an empty folder; return its exit status, its output and its errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = console.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of a run of one epoch, whose settings come from a file and from the command line."""
    folder = tmp_path_factory.mktemp("console")
    np.save(folder / "own.npy", np.random.default_rng(0).random((40, 3, 2)))
    settings = {"data": str(folder / "own.npy"), "epochs": 5, "batch-size": 16, "hidden_dims": [4], "latent_dim": 2}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    arguments = [
        "train",
        "--config",
        folder / "run.yaml",
        "--epochs",
        1,
        "--eval-particles",
        5,
        "--no-report",
        "--out",
        folder / "run",
    ]
    assert console.main([str(argument) for argument in arguments]) == 0
    return folder / "run"


def test_train_takes_the_file_and_then_the_command_line(trained):
    config = json.loads((trained / "config.json").read_text())
    assert (config["epochs"], config["batch_size"], config["hidden_dims"], config["latent_dim"]) == (1, 16, [4], 2)
    assert config["objective"] == "elbo" and config.keys() == SETTINGS.keys() | {"pyro_vae", "torch", "levels"}
    assert {path.name for path in trained.glob("*.png")} >= {"learning_curve.png", "samples.png", "manifold.png"}


def test_the_settings_of_a_run_are_read_back(trained, call, monkeypatch):
    found = []
    monkeypatch.setattr(console, "run", lambda args, command: found.append((training.configure(args)[0], command)))
    assert call("train", "--config", trained / "config.json")[0] == 0
    settings = json.loads((trained / "config.json").read_text())
    assert found == [({name: settings[name] for name in settings if name != "levels"}, "pyro-vae train")]


def test_each_setting_of_hierarchies_is_read_back(call, monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(console, "run", lambda args, command: found.append(training.configure(args)[0]))
    for given in (
        ["--program", "hvae", "--hidden-dims", "6", "10,8", "--objective", "renyi", "--alpha", "-0.5"],
        ["--program", "ladder", "--batch-norm", "--clip-norm", "2"],
        ["--program", "conv-ladder", "--channels", "4", "5", "6", "--gradient", "dreg"],
    ):
        assert call("train", *given)[0] == 0
        Path("config.json").write_text(json.dumps(found[-1]))
        assert call("train", "--config", "config.json")[0] == 0
        assert found[-1] == found[-2]


def test_evaluate(trained, call):
    status, out, _ = call("evaluate", trained, "--num-particles", 20, "--num-data-mi", 4, "--num-data", 10**5)
    assert out.startswith("--num-data: found 100000, and there are 4 test data, all of which are scored\n")
    summary = json.loads((trained / "evaluation.json").read_text())
    assert status == 0 and "Monte Carlo" in out
    assert (summary["num_data"], summary["num_particles"], summary["diagnosis"]["num_data_mi"]) == (4, 20, 4)


def test_sample_draws_what_the_program_draws(trained, call):
    status, out, _ = call("sample", trained, "--num-samples", 3, "--mean", "--seed", 7, "--out", "drawn.npy")
    assert (status, out) == (0, "3 data (3, 2) are in drawn.npy\n")
    vae = pyro_vae.load(trained)
    with seeded(7):
        expected = vae.sample(3, mean=True)
    np.testing.assert_array_equal(np.load("drawn.npy"), expected.numpy())
    assert call("sample", trained, "--out", "drawn.png")[0] == 0
    assert Path("drawn.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("is_grey", [False, True])
def test_score_writes_the_estimates_of_each_datum(trained, call, is_grey):
    x = np.random.default_rng(1).integers(0, 256, (6, 3, 2), dtype=np.uint8)
    np.save("new.npy", x if is_grey else x / 255)
    status, out, _ = call("score", trained, "--data", "new.npy", "--num-particles", 50, "--seed", 2)
    vae = pyro_vae.load(trained)
    expected = pyro_vae.log_likelihood(vae.model, vae.guide, x / 255, 50, seed=2)
    assert status == 0 and f"log p(x) = {expected}" in out
    found = np.genfromtxt("scores.csv", delimiter=",", names=True)
    assert found.dtype.names == ("log_likelihood", "std_error", "ess", "khat")
    for name, column in zip(found.dtype.names, expected, strict=True):
        np.testing.assert_allclose(found[name], column.numpy(), atol=1e-4)  # grey levels are divided in float32


def test_score_takes_the_test_data_of_the_run(trained, call):
    assert call("score", trained, "--num-particles", 5)[0] == 0
    assert len(Path("scores.csv").read_text().splitlines()) == 1 + 4


def test_export_writes_both_networks_and_says_where(trained, call):
    status, out, _ = call("export", trained, "--format", "torch", "--out", "exported")
    files = [Path("exported") / f"{name}.pt2" for name in ("encoder", "decoder")]
    lines = [f"written to {file}, and compared with the program" for file in files]
    assert status == 0 and out.splitlines() == lines
    assert torch.export.load("exported/encoder.pt2").module()(torch.rand(5, 3, 2))[0].shape == (5, 2)


def test_without_arguments_it_prints_its_help(call):
    status, out, _ = call()
    assert status == 0 and all(f"    {name} " in out for name in COMMANDS)
    assert call("--version")[1] == f"pyro_vae {pyro_vae.__version__}\n"


def test_as_a_module_it_is_the_same_command(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pyro_vae", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pyro_vae", run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out == f"pyro_vae {pyro_vae.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_defaults_and_examples(call, name):
    status, out, _ = call(name, "--help")
    assert status == 0 and "--config" in out and re.search(r"\(default:\s", out)
    assert f"examples:\n  pyro-vae {name}" in out
    options = {"train": SETTINGS, "sample": ("seed", "num_samples", "mean"), "export": ("format", "out")}
    for option in options.get(name, ("seed", "device")):
        assert flag(option) in out


def test_completion_is_a_script_that_knows_the_options(call):
    status, script, _ = call("--print-completion", "bash")
    assert status == 0
    complete = "COMP_WORDS=(pyro-vae sample --num) COMP_CWORD=2; _shtab_pyro_vae; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", f"{script}\n{complete}"], capture_output=True, text=True, check=True)
    assert done.stdout == "--num-samples\n"


FILES = {
    "unknown.yaml": "epoch: 3",
    "wrong.yaml": "epochs: 2.5",
    "broken.yaml": "{",
    "number.yaml": "3",
    "choice.yaml": "program: flow",
    "widths.yaml": "hidden_dims: [x]",
    "zero.yaml": "epochs: 0",
    "text.yaml": "seed: x",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "bogus"),
        (["train", "--latent-dim", "x"], "pyro-vae train: --latent-dim: found x, expected int"),
        (["train", "--latent-dim", 0], "pyro-vae train: argument --latent-dim: found 0, expected 1 or more"),
        (["train", "--program", "flow"], "pyro-vae train: argument --program: invalid choice: 'flow'"),
        (["train", "--nope"], "arguments: --nope"),
        (["train", "--alpha", 0.5], "--alpha: found one beside --objective elbo, expected --objective renyi"),
        (["train", "--resume", "nowhere"], "pyro-vae train: --resume: found no config.json in nowhere"),
        (["train", "--data", "missing.npy"], "pyro-vae train: data: found no file or folder "),
        (["train", "--config", "missing.yaml"], "missing.yaml"),
        (["train", "--config", "unknown.yaml"], "train: unknown.yaml: found the option 'epoch', which there is not"),
        (["train", "--config", "wrong.yaml"], "pyro-vae train: wrong.yaml: --epochs: found 2.5, expected int"),
        (["train", "--config", "zero.yaml", "--epochs", "many"], "pyro-vae train: --epochs: found many, expected int"),
        (["train", "--config", "broken.yaml"], "pyro-vae train: broken.yaml: while parsing a flow node"),
        (["train", "--config", "number.yaml"], "train: number.yaml: found int, expected options by name"),
        (["train", "--config", "choice.yaml"], "pyro-vae train: choice.yaml: --program: 'flow' not among choices"),
        (["train", "--config", "widths.yaml"], "pyro-vae train: widths.yaml: --hidden-dims: invalid literal"),
        (["train", "--config", "zero.yaml"], "train: zero.yaml: argument --epochs: found 0, expected 1 or more"),
        (["evaluate", "nowhere", "--config", "text.yaml"], "evaluate: text.yaml: --seed: found x, expected int"),
        (["evaluate"], "run"),
        (["evaluate", "nowhere"], "pyro-vae evaluate: RUN: found no config.json in nowhere"),
        (["evaluate", "nowhere", "--num-particles", 1], "--num-particles: found 1, expected 2 or more"),
        (["evaluate", "nowhere", "--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["evaluate", "nowhere", "--num-data", 2.5], "--num-data: found 2.5, expected int"),
        (["sample", "nowhere"], "pyro-vae sample: found no checkpoint.safetensors in nowhere"),
        (["sample", "nowhere", "--out", "x.jpg"], "--out: found x.jpg, expected a name that ends in .npy or .png"),
        (["score", "nowhere"], "pyro-vae score: found no checkpoint.safetensors in nowhere"),
    ],
)
def test_an_error_is_one_line_and_status_2(call, arguments, message):
    for name, text in FILES.items():
        Path(name).write_text(text)
    status, out, errors = call(*arguments)
    assert (status, out) == (2, "")
    assert errors.startswith("pyro-vae") and message in errors and errors.count("\n") == 1
    assert not Path("runs").exists()


def test_ctrl_c_outside_of_training_says_how_to_resume(call, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "score", interrupted)  # after training
    np.save("own.npy", np.random.default_rng(0).random((20, 2)))
    small = ["--epochs", 1, "--batch-size", 16, "--hidden-dims", 2, "--data", "own.npy", "--out", "cut"]
    status, _, errors = call("train", *small)
    assert status == 130 and errors.endswith("interrupted; pyro-vae train --resume cut goes on\n")
    monkeypatch.setattr(training, "prepared", interrupted)  # before it
    status, _, errors = call("train", "--out", "new")
    assert (status, errors) == (130, "interrupted\n") and not Path("new").exists()
    assert exit_status("pyro-vae score", interrupted) == 130


def test_without_matplotlib_it_trains_and_says_that_there_are_no_pictures(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    np.save("own.npy", np.random.default_rng(0).random((20, 2)))
    small = ["--epochs", 1, "--batch-size", 16, "--hidden-dims", 2, "--data", "own.npy", "--out", "bare"]
    status, out, errors = call("train", *small, "--eval-particles", 5)
    assert status == 0 and out.endswith("weights and metrics are in bare\n") and not list(Path("bare").glob("*.png"))
    assert 'found no matplotlib; pip install "pyro_vae[report]" brings it' in errors
    status, out, _ = call("evaluate", "bare", "--num-particles", 5, "--num-data-mi", 2)
    assert status == 0 and 'pip install "pyro_vae[report]"' in out
    monkeypatch.delitem(sys.modules, "pyro_vae.plots")
    status, _, errors = call("sample", "bare", "--out", "samples.png")
    assert status == 2 and errors.endswith('pip install "pyro_vae[report]"\n')
