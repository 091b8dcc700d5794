"""What ``make gpu`` says of its figures, and how it stops what takes too long; the figures need a GPU."""

from __future__ import annotations

import math
import os
import runpy
import sys
import time
from pathlib import Path

import pytest

GPU = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "gpu.py"))
TARGETS, judge, met = GPU["TARGETS"], GPU["judge"], GPU["met"]


def test_a_target_is_met_up_to_its_figure_and_not_beyond():
    at_most = {target.figure: target.most for target in TARGETS}
    beyond = {name: most + 0.01 for name, most in at_most.items()}
    assert all(line.startswith("met ") for line in judge(at_most)) and len(judge(at_most)) == len(TARGETS)
    assert all(line.startswith("NOT MET ") for line in judge(beyond))
    assert all(met(target, at_most) and not met(target, beyond) for target in TARGETS)
    assert judge({"step: TF32 over NumPyro": 0.456})[0] == (
        "met           step, B = 100, over NumPyro's fori_loop, TF32 in both: 0.456, target ≤ 0.5"
    )


def test_what_was_not_measured_meets_no_target():
    assert all(line.startswith("not measured ") for line in judge({}))
    assert not any(met(target, {}) or met(target, {target.figure: math.nan}) for target in TARGETS)


def test_every_target_is_the_figure_of_a_part():
    assert {target.figure.partition(": ")[0] for target in TARGETS} == {part.name for part in GPU["PARTS"]}


def test_a_process_over_its_limit_is_stopped():
    started = time.monotonic()
    problem = GPU["run"]([sys.executable, "-c", "import time; time.sleep(60)"], 0.1, os.environ)
    assert problem == "not measured: over its limit of 0.1 s" and time.monotonic() - started < 30
    assert GPU["run"]([sys.executable, "-c", "raise SystemExit(3)"], 30, os.environ) == "it ended with status 3"
    assert GPU["run"]([sys.executable, "-c", ""], 30, os.environ) is None


@pytest.mark.parametrize(
    ("attributes", "counts"),
    [
        ('tests="9" failures="2" errors="1" skipped="3"', {"passed": 3, "failed": 3, "skipped": 3}),
        ('tests="3" failures="0" errors="0" skipped="3"', {}),  # there is no GPU: nothing was tested
    ],
)
def test_tests_are_counted_by_the_report(tmp_path, attributes, counts):
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite {attributes}/></testsuites>")
    assert GPU["count_tests"](report) == counts
    assert GPU["count_tests"](tmp_path / "none.xml") == {}
