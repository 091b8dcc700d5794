"""Kill ``examples/train_vae.py`` at random moments, go on with ``--resume``, and compare the files it leaves.

    python -m tests.endurance.script_kills --kills 24

Half of the kills come at any moment of the script's life after its folder is there, half within the quarter of a second
after a file appears in it. The scores, the records and every tensor must be those of the uninterrupted run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image

from tests.endurance import folders

ROOT = Path(__file__).parents[2]
SETTINGS = [
    *("--epochs", 25, "--hidden-dims", 32, "--latent-dim", 5, "--warm-up", 5),
    *("--eval-particles", 100, "--compile", "no", "--no-report"),
]


def script(log: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """Start the script."""
    command = [sys.executable, "examples/train_vae.py", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def wait_for(process: subprocess.Popen[bytes], path: Path) -> float:
    """Wait until a file is there, and return when."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.0005)
    return time.monotonic()


def fault(folder: Path) -> str | None:
    """Return what is wrong with a folder after a kill: a picture or a file of the run that is not whole."""
    pictures = [path for path in folder.glob("*.png") if not path.name.startswith(".")]
    for path in pictures:
        try:
            Image.open(path).load()
        except (OSError, SyntaxError) as error:
            return f"{path.name} is not whole: {error}"
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory, "run")
        shutil.copytree(folder, run)
        for path in (*run.glob("[!.]*.png"), run / "config.json", run / "metrics.json"):
            path.unlink(missing_ok=True)
        return folders.fault(run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24, help="how many (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    args = parser.parse_args()
    began, chance, counts, reasons = time.monotonic(), random.Random(args.seed), Counter(), Counter()
    with tempfile.TemporaryDirectory() as directory:
        log, expected = Path(directory, "log"), Path(directory, "expected")
        process = script(log, *SETTINGS, "--out", expected)
        first, trained = wait_for(process, expected), wait_for(process, expected / "metrics.json")
        if process.wait():
            raise RuntimeError(log.read_text())
        life = time.monotonic() - first
        print(f"uninterrupted: {trained - first:.1f} s from the first file to the scores, {life:.1f} s to the end",
              flush=True)  # fmt: skip
        files = ["config.json", folders.STATE, folders.WEIGHTS, "metrics.json", "learning_curve.png", "samples.png"]
        while counts["kills"] < args.kills:
            folder = Path(directory, f"run-{counts['kills']}")
            process = script(log, *SETTINGS, "--out", folder)
            aimed = counts["kills"] % 2
            path = folder / files[counts["kills"] // 2 % len(files)] if aimed else folder
            wait_for(process, path)
            time.sleep(chance.uniform(0, 0.25 if aimed else life))
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:  # it had ended
                shutil.rmtree(folder)
                continue
            counts["kills"] += 1
            state, scores = (folder / folders.STATE).exists(), (folder / "metrics.json").exists()
            weights = (folder / folders.WEIGHTS).exists()
            at = "drawing" if scores else "training" if weights else "first epoch" if state else "before the state"
            counts[at] += 1
            broken = fault(folder)
            counts["folder whole"] += broken is None
            if (folder / "config.json").exists():
                process = script(log, "--resume", folder)
            else:
                process = script(log, *SETTINGS, "--out", folder)
            if process.wait():
                last = log.read_text().strip().splitlines()[-1].replace(directory, "")
                unequal: str | None = f"exit status {process.returncode}: {last}"
            else:
                unequal = folders.difference(folder, expected)
            counts["equal"] += unequal is None
            for reason in filter(None, (broken, unequal)):
                reasons[f"{at}: {reason}".replace(folder.name, "RUN")] += 1
    for name in ("kills", "before the state", "first epoch", "training", "drawing", "folder whole", "equal"):
        print(f"{name:>18} {counts[name]:4d}")
    for reason, count in reasons.most_common():
        print(f"  {count} x {reason}")
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if not reasons else 1


if __name__ == "__main__":
    sys.exit(main())
