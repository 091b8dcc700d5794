"""Runs that are killed, or told to stop together with their workers, and go on as if they had been left in peace."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import pyro_vae
from pyro_vae.schedules import Linear
from pyro_vae.training import fitting as training
from tests.endurance import folders, processes
from tests.support.programs import bits

ROOT = Path(__file__).parents[2]
X = bits(24)
KEPT = []


def train(folder):
    """Train in a folder, or go on with the run there."""
    resume = (folder / folders.STATE).exists()
    torch.manual_seed(7 + resume)
    vae = pyro_vae.VAE((4, 4), 2, (8,))
    pair = pyro_vae.anneal_kl(vae.model, vae.guide, Linear(8))
    training.fit(
        *pair, pyro_vae.data.load(X * 0.8 + 0.1, binarize="dynamic"), num_epochs=3, batch_size=6, seed=0, patience=2,
        lr=lambda done: 0.05 * (1 - done), checkpoint=folder, resume=resume, progress=False,
    )  # fmt: skip
    return 0


def killed(folder, at):
    """Do so in this process, and kill it before the ``at``-th file that it writes is in its place."""
    replace, count = os.replace, itertools.count(1)

    def counted(*paths):
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    os.replace = counted
    return train(folder)


def forked(run, log):
    with warnings.catch_warnings():  # Python warns of other threads, none of which holds a lock that the child needs
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = processes.start(run, log)
    return processes.ended(pid, seconds=60)


def kill_9_inside_a_write(folder):
    log, expected, run = folder / "log", folder / "expected", folder / "run"
    train(expected)
    # A new run writes the state, then in each epoch program, weights, records and state: die among those of the first
    # epoch, then among them again, then in the second epoch.
    for at in (3, 4, 7):
        assert forked(lambda at=at: killed(run, at), log) == -signal.SIGKILL, log.read_text()
        assert folders.temporaries(run)
        assert folders.fault(run) is None
    assert forked(lambda: train(run), log) == 0, log.read_text()
    assert folders.difference(run, expected) is None


def signal_to_the_whole_group(folder):
    def run():
        _MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.1,)  # seconds until torch looks after workers
        loader = DataLoader(  # by fork, as it was on Linux before Python 3.14: another way would start pytest again
            TensorDataset(X), batch_size=6, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
        )
        KEPT.append(loader)  # whose end would wait five seconds for the workers
        stop = threading.Timer(0.05, os.killpg, (0, signal.SIGTERM))
        torch.manual_seed(7)
        vae = pyro_vae.VAE((4, 4), 2, (8,))
        history = training.fit(
            vae.model, vae.guide, loader, num_epochs=10**6, compile=False, checkpoint=folder / "run", progress=False,
            callbacks=[lambda record: stop.start() if record["epoch"] == 3 else None],
        )  # fmt: skip
        return 0 if history.interrupted and len(history.records) >= 3 else 2

    assert forked(run, folder / "log") == 0, (folder / "log").read_text()
    pyro_vae.load(folder / "run")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing")
@pytest.mark.cross
def test_both_are_survived(tmp_path):
    """In a new process: in one where another test had autograd start threads, a child cannot train after a fork."""
    attacks = [signal_to_the_whole_group.__name__, kill_9_inside_a_write.__name__]
    for name in attacks:
        (tmp_path / name).mkdir()
    script = f"import pathlib, sys; from {__name__} import {', '.join(attacks)}; "
    script += "; ".join(f"{name}(pathlib.Path(sys.argv[1]) / {name!r})" for name in attacks)
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
