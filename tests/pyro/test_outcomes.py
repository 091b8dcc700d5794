"""What a failure says: that this package refuses the programs, or that something is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from tests.pyro.outcomes import KINDS, Outcomes, Verdict, normalised, verdict_of_failure


def failure(run) -> BaseException:
    try:
        run()
    except (Exception, pytest.fail.Exception) as error:
        return error
    raise AssertionError("nothing failed")


def empty(x):
    """A program without sites, which is no pair with itself."""


def refused_programs():
    pyro_vae.log_weights(empty, empty, torch.zeros(2, 3))


def refused_arguments():
    pyro_vae.ELBO(num_particles=0)


def foreign_error():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([7]).to_event(1), obs=x @ x)

    pyro_vae.ELBO().loss(model, empty, torch.zeros(2, 3))


def own_words_of_another():
    raise ValueError("loc: found 1, expected 2")


def expected(match):
    def run():
        with pytest.raises(ValueError, match=match):
            refused_programs()

    return run


def fails_after_a_refusal():
    try:
        refused_programs()
    except pyro_vae.ProgramError:
        assert torch.zeros(()) == 1, "a number that is off"


@pytest.mark.parametrize("run", [refused_programs, refused_arguments])
def test_refused(run):
    kind, message = verdict_of_failure(failure(run))
    assert kind == "refused" and "found" in message and "expected" in message


def test_refused_where_an_error_in_other_words_is_expected():
    kind, message = verdict_of_failure(failure(expected("words of Pyro")))
    assert kind == "reworded" and message.startswith("found no observed site")
    expected("found no observed site")()  # the same words are no failure


@pytest.mark.parametrize("run", [foreign_error, own_words_of_another, fails_after_a_refusal])
def test_wrong(run):
    error = failure(run)
    kind, message = verdict_of_failure(error)
    assert kind == "wrong" and message.startswith(f"{type(error).__name__}: ")


def test_wrong_where_another_error_is_expected():
    def run():
        with pytest.raises(ValueError, match="words of Pyro"):
            own_words_of_another()

    assert verdict_of_failure(failure(run)).kind == "wrong"


def test_messages_alike_but_for_names_shapes_and_numbers_are_one():
    first = normalised("site 'x': found a value of shape (3, 4) in [-1], expected 1e-5 or -2.5")
    assert first == normalised("site 'y': found a value of shape (5,) in [-1, -2], expected 7 or 1") != ""
    assert first != normalised("site 'y': found a value of shape (5,) in [-1, -2], expected 7")


def test_the_table(tmp_path):
    outcomes = Outcomes(tmp_path / "table.txt", time_limit=1.0, seed=0)
    outcomes.verdicts = {
        "a": Verdict("refused", "site 'x': found 1, expected 2"),
        "b": Verdict("refused", "site 'y': found 3, expected 4"),
        "c": Verdict("wrong", "AssertionError: 1 != 2"),
        "d": Verdict("passed"),
    }
    lines = list(outcomes.lines())
    counts = dict(reversed(line.split(maxsplit=1)) for line in lines[2 : 2 + len(KINDS)])
    assert counts == dict.fromkeys(KINDS, "0") | {"passed": "1", "refused": "2", "wrong": "1"}
    wrong, refused = (
        lines.index("wrong, 1 x: AssertionError: 1 != 2"),
        lines.index("refused, 2 x: site 'x': found 1, expected 2"),
    )
    assert wrong < refused and lines[wrong + 1] == "    c" and lines[refused + 1 :] == ["    a", "    b"]


@pytest.mark.parametrize("kind, status", [("refused", 0), ("wrong", 1)])
def test_the_status_of_a_session_says_whether_a_test_went_wrong(kind, status):
    outcomes = Outcomes(None, time_limit=1.0, seed=0)
    outcomes.verdicts = {"a": Verdict("passed"), "b": Verdict(kind, "a message")}
    session = SimpleNamespace(config=SimpleNamespace(), exitstatus=pytest.ExitCode.TESTS_FAILED)
    outcomes.pytest_sessionfinish(session)
    assert session.exitstatus == status
