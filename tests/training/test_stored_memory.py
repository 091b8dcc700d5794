"""A run on a file four times as large as the memory that it may take: by a limit of the system, and by the peak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FILE, LIMIT = 256 << 20, 64 << 20  # bytes

SCRIPT = """
import resource, sys, threading
import numpy as np, torch
import pyro_vae

def status(name):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) * 1024

def train(data):
    torch.manual_seed(0)
    vae = pyro_vae.VAE(data_shape=(4,), latent_dim=2, hidden_dims=(4,), likelihood="gaussian")
    model, guide = (lambda x: vae.model(x[:, :4])), (lambda x: vae.guide(x[:, :4]))  # all is read and little computed
    history = pyro_vae.fit(model, guide, data, num_epochs=1, batch_size=512, seed=0, progress=False)
    print(history.records[0]["step"], history.records[0]["train_bound"])

path, limit = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
train(np.zeros((1024, 4096), "float32"))  # what the libraries load when they are used
window = {"window_bytes": 8 << 20}

size = status("VmSize") + limit
resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
try:
    np.fromfile(path, "float32")
    print("the limit does not hold")
except MemoryError:
    print("no memory for the whole file")
train(pyro_vae.data.Stored(path, **window))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # VmHWM begins anew
before = status("VmRSS")
train(pyro_vae.data.Stored(np.load(path, mmap_mode="r"), **window))
print(status("VmHWM") - before)
"""


@pytest.mark.cross
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it")
def test_a_file_four_times_as_large_as_the_limit(tmp_path):
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, 4096), "float32"))
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (FILE // 4096 // 4, 4096)})
        file.truncate(file.tell() + FILE)  # a file of zeros that takes no place on the disk
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT, str(tmp_path / "x.npy"), str(LIMIT)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    _, no_memory, limited, mapped, grown = result.stdout.splitlines()
    assert no_memory == "no memory for the whole file"
    assert limited == mapped and limited.startswith(f"{FILE // 4096 // 4 // 512} ")
    assert int(grown) < LIMIT
