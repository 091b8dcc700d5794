"""The console command in a folder of its own, with training that draws no pictures."""

from __future__ import annotations

import pytest

from pyro_vae.commands import console, training


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run the command in an empty folder; return its exit status, its output and its errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "find_spec", lambda name: None)  # draw no pictures, which takes a second

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = console.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run
