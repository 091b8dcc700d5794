"""A pytest plugin that says of each test whether it passed, was refused by this package, or went wrong.

* *passed*: also what fails in Pyro and passes here (xpassed).
* *refused*: it fails because this package raised ``ProgramError``, or a ``ValueError`` or ``TypeError`` of the form
  "name: found X, expected Y". Where the test expects an error, and this one has other words than Pyro's, it is counted
  apart, as *reworded*: both packages refuse the programs.
* *wrong*: anything else that fails. A number that is off, an error of another package, too long a run, too much memory.
* *noisy*: a number is off, and is not with one of two further seeds.
* *unwarned*: Pyro warns of a limit that this package does not have, and the test expects the warning.
* *xfailed* and *skipped*, as pytest has them.

The table of all this goes to the file of ``--table``. The exit status is 1 if a test went wrong, and 0 if not.

Pyro's tests of gradients compare means of draws with tolerances of about one standard error, and most of them set no
seed: with Pyro's own ELBOs 10 of 420 failed in one run. Each test is seeded here, so that a run can be repeated.
"""

from __future__ import annotations

import re
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pyro
import pytest
from _pytest.runner import runtestprotocol

import pyro_vae

KINDS = ("passed", "noisy", "unwarned", "refused", "reworded", "wrong", "xfailed", "skipped")
NUM_SEEDS = 3
NO_WARNING = "AssertionError: No warnings were raised"
NEEDS_NO_WARNING = {
    "test_mean_field_warn": "the KL is sampled where the guide has another order than the model",
    "test_enum_discrete_misuse_warning": "a latent that is marked for enumeration is drawn, as the design says",
}
PACKAGE = Path(pyro_vae.__file__).parent
SENTENCE = re.compile(r"\S.*: found .*, expected .", re.DOTALL)


class Verdict(NamedTuple):
    """What became of a test, and the message of the error if there is one."""

    kind: str
    message: str = ""


def _raised_in(error: BaseException) -> Path:
    """Return the file whose code raised an error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return Path(traceback.tb_frame.f_code.co_filename) if traceback is not None else Path()


def is_refusal(error: BaseException) -> bool:
    """Return whether an error is one by which this package refuses programs or arguments."""
    if isinstance(error, pyro_vae.ProgramError):
        return True
    is_sentence = isinstance(error, (ValueError, TypeError)) and SENTENCE.match(str(error)) is not None
    return is_sentence and _raised_in(error).is_relative_to(PACKAGE)


def verdict_of_failure(error: BaseException) -> Verdict:
    """Return what the error by which a test failed says of it."""
    if is_refusal(error):
        return Verdict("refused", _first_line(error))
    if "_pytest" in _raised_in(error).parts:  # of pytest.raises, whose error did not match
        expected = error.__context__
        if expected is not None and is_refusal(expected):
            return Verdict("reworded", _first_line(expected))
    return Verdict("wrong", f"{type(error).__name__}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def normalised(message: str) -> str:
    """Return a message without the names, shapes and numbers that differ from test to test."""
    message = re.sub(r"'[^']*'", "'…'", message)
    message = re.sub(r"\((?:\d+, ?)*\d*,?\)|\[[^]]*\]", "[…]", message)
    return re.sub(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", "N", message)


def _verdict(report: pytest.TestReport) -> Verdict:
    """Return the verdict in a report of a call, or of a failure before or after it."""
    default = ("wrong", "the process of the test ended") if report.failed else ("passed",)
    return Verdict(*dict(report.user_properties).get("verdict", default))


def _is_number_off(report: pytest.TestReport) -> bool:
    return report.failed and _verdict(report).message.startswith("AssertionError") and _verdict(report).kind == "wrong"


class Outcomes:
    """Gathers the verdicts of a session, in its own process or from those of pytest-xdist, and writes the table."""

    def __init__(self, table: Path | None, time_limit: float, seed: int) -> None:
        self.table, self.time_limit, self.seed = table, time_limit, seed
        self.verdicts: dict[str, Verdict] = {}
        self.num_left_out = 0
        self.num_repeats = 0
        self.start = time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        pyro.set_rng_seed(self.seed + self.num_repeats)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Run a test, and with other seeds if a number is off."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        runs = []
        for self.num_repeats in range(NUM_SEEDS):
            runs.append(runtestprotocol(item, nextitem=nextitem, log=False))
            if not any(_is_number_off(report) for report in runs[-1]):
                break
        reports = runs[0] if any(report.failed for report in runs[-1]) else runs[-1]
        for report in reports:
            if len(runs) > 1 and reports is runs[-1] and report.when == "call":
                message = next(_verdict(report).message for report in runs[0] if report.failed)
                report.user_properties.append(("verdict", ["noisy", message]))
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        def stop(signum: int, frame: FrameType | None) -> None:
            raise TimeoutError(f"ran longer than {self.time_limit:g} seconds")

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.time_limit)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo
    ) -> Generator[None, Any, pytest.TestReport]:
        report = yield
        if report.failed:
            failure = verdict_of_failure(call.excinfo.value) if call.excinfo else Verdict("wrong", str(report.longrepr))
            if failure.message == NO_WARNING and item.originalname in NEEDS_NO_WARNING:
                failure = Verdict("unwarned", NEEDS_NO_WARNING[item.originalname])
            report.user_properties.append(("verdict", list(failure)))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.verdicts[report.nodeid] = Verdict("xfailed" if hasattr(report, "wasxfail") else "skipped")
        elif report.failed or report.when == "call":
            self.verdicts[report.nodeid] = _verdict(report)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.num_left_out += len(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the number of deselected tests from one of several processes, each being given all tests."""
        self.num_left_out = getattr(node, "workeroutput", {}).get("num_left_out", self.num_left_out)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["num_left_out"] = self.num_left_out
            return
        if session.exitstatus == pytest.ExitCode.TESTS_FAILED and not self.of_kind("wrong"):
            session.exitstatus = pytest.ExitCode.OK
        if self.table is not None:
            self.table.write_text("\n".join(self.lines()) + "\n", encoding="utf-8")

    def of_kind(self, kind: str) -> dict[str, str]:
        """Return the tests of a kind, each with its message."""
        return {test: verdict.message for test, verdict in sorted(self.verdicts.items()) if verdict.kind == kind}

    def lines(self) -> Iterator[str]:
        """Return the lines of the table: the counts, then the messages with their tests."""
        versions = ", ".join(f"{name} {version(name)}" for name in ("pyro-ppl", "torch"))
        yield f"Pyro's own tests, with its ELBOs replaced ({versions})"
        yield ""
        for kind in KINDS:
            yield f"{len(self.of_kind(kind)):6d}  {kind}"
        yield f"{len(self.verdicts):6d}  in all, in {time.monotonic() - self.start:.0f} seconds"
        yield f"{self.num_left_out:6d}  left out: they use none of the replaced ELBOs, or pytest was told to"
        for kind in ("wrong", "refused", "reworded", "noisy", "unwarned"):
            groups = defaultdict(list)
            for test, message in self.of_kind(kind).items():
                groups[normalised(message)].append((test, message))
            for members in sorted(groups.values(), key=len, reverse=True):
                yield ""
                yield f"{kind}, {len(members)} x: {members[0][1]}"
                yield from (f"    {test}" for test, _ in members)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, help="the file that the table is written to")
    parser.addoption("--seed", type=int, default=0, help="the seed of every test")
    parser.addoption("--time-limit", type=float, default=600.0, help="seconds after which a test is stopped")
    parser.addoption("--memory-limit", type=float, default=8.0, help="GiB of address space that a process may have")


def pytest_configure(config: pytest.Config) -> None:
    most = int(config.getoption("memory_limit") * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    given = (config.getoption(name) for name in ("table", "time_limit", "seed"))
    config.pluginmanager.register(Outcomes(*given))
