"""Run the scripts of examples/ in this process."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURES = {"learning_curve.png", "reconstructions.png", "samples.png"}


@dataclass
class Done:
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys, monkeypatch):
    """Run an example's ``main`` in this process, as ``python examples/SCRIPT ARGUMENTS`` would.

    Training writes a report only with ``--report``, for tests alone.
    """

    def call(script: str, *arguments: object, cwd: Path | None = None) -> Done:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        if script == "train_vae.py" and "--report" not in arguments:  # which takes seconds
            arguments = (*arguments, "--no-report")
        arguments = tuple(each for each in arguments if each != "--report")
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
