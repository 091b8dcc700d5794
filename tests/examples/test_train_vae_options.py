"""The command line and config.json of train_vae.py: defaults, refusals, and settings that are read back."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

import pyro_vae
from pyro_vae.commands.options import OPTIONS, parse
from pyro_vae.commands.runs import build
from pyro_vae.commands.settings import LATER, configure, read_config
from pyro_vae.runtime import tensor_files


def test_only_the_ladder_warms_up_unasked():
    given = {"ladder": 10, "hvae": 0, "conv-ladder": 0, "vae": 0}
    assert {name: parse(["--program", name, "--epochs", "40"]).warm_up for name in given} == given
    assert parse(["--program", "ladder", "--warm-up", "0"]).warm_up == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["10,8", "6"], [[10, 8], [6]]),
        (["6", "10,8"], [[6], [10, 8]]),
        (["10", "8"], [10, 8]),
        ([], []),
    ],
)
def test_hidden_widths_of_each_layer(tmp_path, given, expected):
    arguments = ["--program", "hvae", "--latent-dims", "4", "2", "--out", str(tmp_path), "--hidden-dims", *given]
    config, _ = configure(parse(arguments))
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


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "imagenet"], "name: found 'imagenet', expected .*'digits'"),
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
def test_damaged_settings_are_named_in_one_sentence(tmp_path, change, message):
    config, _ = configure(parse(["--hidden-dims", "5", "--out", str(tmp_path / "run")]))
    tensor_files.write_tensors(tmp_path / "last.safetensors", pyro_vae.VAE((4, 4), 10, (5,)).state_dict())
    splits = SimpleNamespace(data_shape=(4, 4), train=torch.full((4, 4), 0.5))
    text = change if isinstance(change, str) else {k: v for k, v in (config | change).items() if v is not ...}
    (tmp_path / "config.json").write_text(change if isinstance(change, str) else json.dumps(text))
    with pytest.raises(ValueError, match=f"^{tmp_path / 'config.json'}: .*({message})"):
        build(read_config(tmp_path, "--resume"), splits, tmp_path)


def test_settings_as_they_were_written_are_read_back(tmp_path):
    for given in (
        [],
        ["--program", "hvae", "--hidden-dims", "6", "10,8"],
        ["--program", "ladder", "--batch-norm"],
        ["--program", "conv-ladder"],
        ["--objective", "renyi", "--alpha", "-0.5", "--lr", "1e-4"],
    ):
        config, _ = configure(parse([*given, "--out", str(tmp_path / "run")]))
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert read_config(tmp_path, "--resume") == config


def test_settings_without_what_came_later_mean_its_default(tmp_path):
    config, _ = configure(parse(["--out", str(tmp_path / "run")]))
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in LATER}))
    assert read_config(tmp_path, "--resume") == config


@pytest.fixture
def resumed(tmp_path):
    """Return the settings that are resumed with more options, and those of the run."""
    made = [
        "--program",
        "hvae",
        "--hidden-dims",
        "10,8",
        "6",
        "--epochs",
        "7",
        "--data-root",
        "data",
        "--kl-weight",
        "2",
    ]
    config, _ = configure(parse([*made, "--out", str(tmp_path)]))
    (tmp_path / "config.json").write_text(json.dumps(config))

    def resume(*arguments: str) -> tuple[dict, dict]:
        found, folder = configure(parse(["--resume", str(tmp_path), *arguments]))
        assert folder == tmp_path
        return found, config

    return resume


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--epochs", "7", "--program", "hvae", "--latent-dims", "20", "10", "--hidden-dims", "10,8", "6"],
        ["--data-root", "data", "--data", "digits", "--kl-weight", "2.0", "--seed", "0"],
    ],
)
def test_options_beside_resume_may_repeat_the_settings(resumed, arguments):
    found, expected = resumed(*arguments)
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "8"], "--epochs: found 8 beside --resume, expected 7 as in {path}"),
        (["--latent-dims", "3"], "--latent-dims: found [3] beside --resume, expected [20, 10] as in {path}"),
        (["--hidden-dims", "10", "8"], "--hidden-dims: found [10, 8] beside --resume, expected [[10, 8], [6]] as in"),
        (["--latent-dim", "4"], "--latent-dim: found 4 beside --resume, expected None as in {path}"),
        (["--program", "vae"], "--program: found vae beside --resume, expected hvae as in {path}"),
        (["--data", "own.npy"], "own.npy beside --resume, expected digits as in {path}"),
        (["--data-root", "other"], "other beside --resume, expected "),
        (["--batch-norm"], "--batch-norm: found True beside --resume, expected None as in {path}"),
        (["--out", "new"], "--out: found new beside --resume {folder}, expected no other folder"),
    ],
)
def test_options_beside_resume_that_differ_are_refused(resumed, tmp_path, arguments, message):
    with pytest.raises(ValueError) as caught:
        resumed(*arguments)
    assert message.format(path=tmp_path / "config.json", folder=tmp_path) in str(caught.value)


def test_help_shows_each_option_with_its_default(succeed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = succeed("train_vae.py", "--help")
    _, *parts = re.split(r"^  --([\w-]+)", text, flags=re.M)  # each option and what stands between it and the next
    described = dict(zip(parts[::2], parts[1::2], strict=True))
    assert described.keys() == {name.replace("_", "-") for group in OPTIONS.values() for name in group}
    assert all("(default: " in part for part in described.values())
    text = " ".join(text.split())
    for row in (
        "latent z (default: 10 for vae)",
        "(default: tanh for vae, hvae; leaky_relu for ladder)",
        "(default: 4 6 2 for conv-ladder)",
        "learning rate, falling to zero by a cosine (default: 0.002)",
        "(default: none)",
    ):
        assert row in text
