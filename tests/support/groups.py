"""Processes that make a group, as a launcher starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(size: int, folder: Path, *calls: str) -> list[subprocess.CompletedProcess[str]]:
    """Run scenarios of :mod:`tests.ranks.scenarios` in so many processes, and wait for them all."""
    port = free_port()
    processes = []
    for rank in range(size):
        launched = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = os.environ | {name: str(value) for name, value in launched.items()}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"}
        command = [sys.executable, "-W", "error::UserWarning", "-m", "tests.ranks.worker", str(folder), *calls]
        processes.append(
            subprocess.Popen(
                command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    finished = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            finished.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return finished


def results(folder: Path, name: str, size: int) -> list[Any]:
    """Return what a scenario returned in each process."""
    return [torch.load(folder / f"{name}.{rank}.pt", weights_only=False) for rank in range(size)]
