"""Kill training at random moments, go on with it, and compare the end with that of a run that was left in peace.

    python -m tests.endurance.kills                  # 100 times kill -9, then 24 times SIGTERM
    python -m tests.endurance.kills --kills 8 --terms 0 --seed 3 --variants eager-tensor

Each variant is a run of a few seconds with validation, a warm-up of the KL, a rate that falls and early stopping. Most
signals come at a uniformly random moment after the first file is there, one in eight before, one in five while a file
is being written. Then the folder must load, and the run that goes on must end with the weights, records, optimiser and
generators of the uninterrupted run, bit by bit; in a third of the cases it is killed a second time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.endurance import folders, processes
from tests.endurance.kill_runs import STOPPED, VARIANTS, Reference, refer, train


@dataclass
class Outcome:
    """What a signal did: when it came, and what became of the run."""

    moments: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    broken: str | None = None  # what was wrong with the folder
    unequal: str | None = None  # where the end differs from the reference's
    leftover: int = 0  # temporary files that are there in the end


def strike(pid: int, folder: Path, moment: str, wait: float, spread: float, send: Callable[[int], None]) -> str:
    """Send a signal to a run: after ``wait`` seconds, counted from when its state is there unless that is to come.

    Returns the moment it came at, or "too late" if the run had ended.
    """
    while moment != "before" and not (folder / folders.STATE).exists():
        if _over(pid):
            return "too late"
        time.sleep(0.0005)
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        if _over(pid):
            return "too late"
        time.sleep(min(0.002, max(deadline - time.monotonic(), 0)))
    if moment == "writing":
        while not folders.temporaries(folder):
            if _over(pid):
                return "too late"
        time.sleep(spread)
    if _over(pid):
        return "too late"
    send(pid)
    return "sent"


def _over(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def found_moment(folder: Path) -> str:
    """Return where in its life a run was when it died, from what it left."""
    if folders.temporaries(folder):
        return "writing"
    epoch = folders.num_epochs(folder)
    return "before" if epoch is None else "first epoch" if epoch == 0 else "later"


def attack(variant: str, reference: Reference, scratch: Path, chance: random.Random, kind: str) -> Outcome:
    """Train, send a signal, look at the folder, go on, and compare."""
    outcome, folder, weights = Outcome(), scratch / "run", scratch / "run.safetensors"
    log = scratch / "log"
    strikes = 1 + (chance.random() < 1 / 3)
    while True:
        log.write_text("")
        had_temporaries = len(folders.temporaries(folder))
        pid = processes.start(lambda: train(variant, folder, weights), log)
        if len(outcome.moments) < strikes:
            draw = chance.random()
            moment = "before" if draw < 1 / 8 else "writing" if draw < 1 / 8 + 1 / 5 else "after"
            wait = chance.uniform(0, reference.before if moment == "before" else reference.after)
            sent = strike(pid, folder, moment, wait, chance.uniform(0, 0.003), SENDERS[kind])
            status = processes.ended(pid)
            if sent == "sent" and status != 0:
                stop = {STOPPED: "clean", -signal.SIGTERM: "died", -signal.SIGKILL: "killed"}.get(status)
                if stop is None:
                    outcome.broken = f"exit status {status}: {_last_line(log)}"
                    return outcome
                at = found_moment(folder)
                if at == "writing" and len(folders.temporaries(folder)) == had_temporaries:
                    at = "later" if folders.num_epochs(folder) else "first epoch"
                outcome.moments.append(at), outcome.stops.append(stop)
                outcome.broken = folders.fault(folder)
                if outcome.broken is not None:
                    return outcome
                continue
        else:
            status = processes.ended(pid)
        if status != 0:
            outcome.unequal = f"exit status {status}: {_last_line(log)}"
            return outcome
        if not outcome.moments:  # the run had ended before the signal came: begin again
            shutil.rmtree(folder)
            continue
        outcome.leftover = len(folders.temporaries(folder))
        outcome.unequal = folders.difference(folder, reference.folder)
        if outcome.unequal is None and weights.read_bytes() != reference.weights.read_bytes():
            outcome.unequal = "the weights that fit left in the programs"
        return outcome


SENDERS: dict[str, Callable[[int], None]] = {
    "KILL": lambda pid: os.kill(pid, signal.SIGKILL),
    "TERM": lambda pid: os.kill(pid, signal.SIGTERM),
    "TERM to all": lambda pid: os.killpg(pid, signal.SIGTERM),  # as a cluster does: to the loader's workers too
}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def table(title: str, rows: dict[str, list[Outcome]], columns: dict[str, Callable[[Outcome], int]]) -> None:
    """Print a line a variant, and their sums."""
    width = max(map(len, rows)) + 2
    print(f"\n{title}\n{'':{width}}" + "".join(f"{name:>14}" for name in columns))
    total = [outcome for outcomes in rows.values() for outcome in outcomes]
    for name, outcomes in (*rows.items(), ("all", total)):
        print(f"{name:{width}}" + "".join(f"{sum(map(count, outcomes)):14d}" for count in columns.values()))


def report(kind: str, rows: dict[str, list[Outcome]]) -> bool:
    """Print the table of one kind of signal, and return whether every run survived."""

    def at(moment: str) -> Callable[[Outcome], int]:
        return lambda outcome: outcome.moments.count(moment)

    columns = {
        "runs": lambda outcome: 1,
        "signals": lambda outcome: len(outcome.moments),
        **{moment: at(moment) for moment in ("before", "first epoch", "later", "writing")},
        **({} if kind == "kill -9" else {"clean stops": lambda outcome: outcome.stops.count("clean")}),
        "folder loads": lambda outcome: outcome.broken is None,
        "bit-equal": lambda outcome: outcome.broken is None and outcome.unequal is None,
        "left over": lambda outcome: outcome.leftover,
    }
    table(kind, rows, columns)
    reasons = Counter(
        (variant, outcome.broken or outcome.unequal)
        for variant, outcomes in rows.items()
        for outcome in outcomes
        if outcome.broken or outcome.unequal
    )
    for (variant, reason), count in reasons.most_common():
        print(f"  {count} x {variant}: {reason}")
    return not reasons


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="runs that get kill -9 (default: 100)")
    parser.add_argument("--terms", type=int, default=24, help="runs that get SIGTERM (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", type=Path, help="a file to write every outcome to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, chance, survived = time.monotonic(), random.Random(args.seed), True
    with tempfile.TemporaryDirectory() as directory:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{directory}/inductor"  # killed while writing to it, like the run
        references: dict[str, Reference] = {}
        for variant in args.variants:
            scratch = Path(directory, variant)
            scratch.mkdir()
            references[variant] = refer(variant, scratch)
            last = folders._parsed(references[variant].folder / folders.METRICS)[-1]
            print(f"{variant}: {last['epoch']} epochs, first file after {references[variant].before:.2f} s, "
                  f"then {references[variant].after:.2f} s", flush=True)  # fmt: skip
        tasks = {"kill -9": (args.kills, ["KILL"]), "SIGTERM": (args.terms, ["TERM", "TERM to all"])}
        outcomes: dict[str, dict[str, list[Outcome]]] = {}
        for title, (count, kinds) in tasks.items():
            rows = outcomes[title] = {variant: [] for variant in args.variants}
            for i in range(count):
                variant = args.variants[i % len(args.variants)]
                scratch = Path(directory, variant, f"{title}-{i}")
                scratch.mkdir()
                kind = kinds[i // len(args.variants) % len(kinds)]
                outcome = attack(variant, references[variant], scratch, chance, kind)
                rows[variant].append(outcome)
                if outcome.broken is None and outcome.unequal is None:
                    shutil.rmtree(scratch)
                else:
                    print(f"{title} {i}, {variant}, {outcome.moments}: {outcome.broken or outcome.unequal}", flush=True)
            if count:
                survived &= report(title, rows)
        if args.json is not None:
            args.json.write_text(json.dumps(outcomes, default=vars, indent=1))
    print(f"\n{time.monotonic() - began:.0f} s")
    return 0 if survived else 1


if __name__ == "__main__":
    processes.with_one_thread("tests.endurance.kills")
    sys.exit(main())
