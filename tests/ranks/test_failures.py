"""A rank that fails or dies ends the others, which name it; a launcher starts them again, and the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from pyro_vae.runtime.tensor_files import read_tensors
from tests.ranks import given_noise
from tests.support import groups


def said(folder, name, rank):
    path = folder / f"{name}.{rank}.pt"
    return torch.load(path) if path.exists() else None


class TestFailures:
    """In one group after the other; each takes a second or two, and the seconds in which all might fail alike."""

    @pytest.mark.cross
    def test_a_rank_that_is_killed(self, tmp_path):
        started = time.monotonic()
        first, second = groups.start(2, tmp_path, f"killed={tmp_path / 'run'}")
        assert (first.returncode, second.returncode) == (0, -9) and time.monotonic() - started < 60
        assert said(tmp_path, "killed", 0) == "RankError: fit: rank 0 of 2 stopped: rank 1 has died"
        position = read_tensors(tmp_path / "run" / "last.safetensors")[1]["run"]
        assert '"epoch": 1' in position  # the last whole epoch is on disk

    @pytest.mark.cross
    def test_ranks_in_different_calls_and_an_error_on_one(self, tmp_path):
        groups.start(2, tmp_path, "different", "failing")
        for rank, name in enumerate(["fit", "diagnose"]):
            assert said(tmp_path, "different", rank) == (
                f"RankError: {name}: found ranks in different calls, ['fit', 'diagnose'], expected all of them in the "
                "same one"
            )
        first, second = (said(tmp_path, "failing", rank) for rank in range(2))
        assert second[0] == "ZeroDivisionError: of rank 1"
        expected = "RankError: fit: rank 0 of 2 stopped: rank 1 failed with ZeroDivisionError: of rank 1"
        assert first[0] == expected
        ended = "RankError: found a process group that ended when a rank failed, expected a new start of all ranks"
        assert (first[1], second[1]) == (ended, ended)  # and none waits for those that are gone


@pytest.mark.cross
def test_torchrun_starts_the_training_script_again(tmp_path):
    """The first start is killed on rank 1 after an epoch; the second ends with what one process comes to."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1",
        f"--master-port={groups.free_port()}",
        "tests/ranks/killed_training.py", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(groups.ROOT)}
    with subprocess.Popen(command, env=environment, cwd=groups.ROOT, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            _, said_by_it = launcher.communicate(timeout=120)
        finally:
            launcher.terminate()  # and it its processes, if they are still there
    assert launcher.returncode == 0, said_by_it
    found, pair = torch.load(tmp_path / "run.pt"), given_noise.GivenNoise()
    given_noise.fit(pair)
    assert found["restarts"] == 1
    torch.testing.assert_close(found["weights"], dict(pair.state_dict()), rtol=0, atol=1e-9)
