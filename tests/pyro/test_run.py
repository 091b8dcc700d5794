"""All of it, on a few small tests in a folder that is laid out like a checkout of Pyro."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pyro import run

TESTS = """
import time
from unittest import TestCase

import pyro, pytest, torch
import pyro.distributions as dist
from pyro import infer
from pyro.infer import (
    EnergyDistance, RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
)

X = torch.zeros(4)

def model(x):
    with pyro.plate("data", 4):
        z = pyro.sample("z", dist.Normal(0, 1))
        pyro.sample("x", dist.Normal(z, 1), obs=x)

def guide(x):
    with pyro.plate("data", 4):
        pyro.sample("z", dist.Normal(0, 1))

Trace_ELBO().loss(model, guide, X)  # which imports what torch imports late, outside of the time limit

def of_two_plates(program):
    return lambda x: pyro.plate("units", 3, dim=-2)(program)(x)

def empty_guide(x):
    pass

def DiffTrace_ELBO(*args, **kwargs):
    return Trace_ELBO(*args, **kwargs).differentiable_loss

def EnergyDistance_prior(**kwargs):
    return EnergyDistance(**kwargs)

def same_twice(loss):
    assert loss(model, guide, X) == loss(model, guide, X)

@pytest.mark.parametrize("Elbo", [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, RenyiELBO, TraceEnum_ELBO])
def test_names(Elbo):
    assert isinstance(Elbo(), infer.ELBO) and Elbo is getattr(infer, Elbo.__name__)
    elbo = Elbo(max_plate_nesting=float("inf"), vectorize_particles=True, strict_enumeration_warning=False)
    state = torch.get_rng_state()
    first = elbo.loss(of_two_plates(model), of_two_plates(guide), X)
    torch.set_rng_state(state)
    assert first == elbo.loss(of_two_plates(model), of_two_plates(guide), X) > 0

@pytest.mark.parametrize("Elbo", [DiffTrace_ELBO, EnergyDistance_prior])
def test_helpers(Elbo):
    Elbo(max_plate_nesting=0)(model, guide, X)

def test_no_pair():
    Trace_ELBO().loss(model, empty_guide, X)

def test_number():
    same_twice(Trace_ELBO().loss)

def test_noise():
    Trace_ELBO()
    assert torch.initial_seed() == 2, "noise of the first two seeds"

def test_mean_field_warn():
    assert not TraceMeanField_ELBO(), "No warnings were raised"

def test_enumeration():
    TraceEnum_ELBO().loss(model, guide, X)

def test_long():
    Trace_ELBO()
    time.sleep(100)

@pytest.mark.xfail
def test_expected_to_fail():
    Trace_ELBO().loss(model, empty_guide, X)

class TestMethods(TestCase):
    def test_wake_sleep(self):
        self.do()

    def do(self):
        assert ReweightedWakeSleep(insomnia=0.0, model_has_params=True).loss(model, guide, X) > 0

    def test_nothing(self):
        pass
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with the files that are copied, empty but for one."""
    root = tmp_path / "pyro"
    for name in run.TESTS + run.AROUND:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(TESTS if name == run.TESTS[0] else "", encoding="utf-8")
    return root


def counts_and_groups(checkout: Path, *arguments: str) -> tuple[int, dict[str, int], str]:
    """Run the tests of a folder; return the exit status, the counts of the table, and the rest of it."""
    table = checkout.parent / "table.txt"
    command = [sys.executable, "-m", "tests.pyro.run", "--pyro-source", str(checkout), "--table", str(table)]
    result = subprocess.run([*command, *arguments], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    text = table.read_text(encoding="utf-8")
    assert text in result.stdout
    return result.returncode, {kind: int(n) for n, kind in re.findall(r"^ *(\d+)  (\w+)", text, re.MULTILINE)}, text


@pytest.mark.cross
def test_a_run_in_two_processes(checkout):
    status, counts, text = counts_and_groups(checkout, "--jobs", "2", "--time-limit", "2")
    assert status == 1
    assert counts == {
        "passed": 6,
        "noisy": 1,
        "unwarned": 1,
        "refused": 1,
        "reworded": 0,
        "wrong": 2,
        "xfailed": 1,
        "skipped": 0,
        "in": 12,
        "left": 4,
    }
    groups = {line: tests.split() for line, tests in re.findall(r"^(\w+, .*)\n((?:    .*\n)+)", text, re.MULTILINE)}
    short = {line.partition(": ")[2]: [test.partition("::")[2] for test in tests] for line, tests in groups.items()}
    assert short.pop("TimeoutError: ran longer than 2 seconds") == ["test_long"]
    (refusal,) = [line for line in short if line.startswith("site 'z': found in the model")]
    assert short.pop(refusal) == ["test_no_pair"]
    assert short.pop("AssertionError: noise of the first two seeds") == ["test_noise"]
    assert short.pop("the KL is sampled where the guide has another order than the model") == ["test_mean_field_warn"]
    assert list(short.values()) == [["test_number"]]


@pytest.mark.cross
def test_a_run_with_pyros_own_elbos(checkout):
    status, counts, text = counts_and_groups(
        checkout, "--jobs", "1", "--pyros-own", "-k", "test_no_pair or test_helpers"
    )
    assert status == 1 and (counts["passed"], counts["wrong"], counts["left"]) == (1, 1, 14)
    assert "pyro_vae" not in text


def test_a_folder_without_the_tests_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(["--pyro-source", str(tmp_path)])
    assert f"--pyro-source: found no {run.TESTS[0]} in {tmp_path}, expected" in capsys.readouterr().err
