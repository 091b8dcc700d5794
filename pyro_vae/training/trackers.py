"""What all trackers of experiments share: each epoch is logged once, also by a run that is resumed.

The checkpoint's folder has a file, ``trackers.json``, of the runs that trackers have begun, each with the last epoch
that it was given. A run that is resumed goes on with them. Epochs that are in the checkpoint but were not logged, since
the process died or had no tracker, are logged first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.runtime.files import write_text
from pyro_vae.training.callbacks import Callback, Run
from pyro_vae.training.history import History, Record

__all__ = ["Tracker", "flat", "numbers"]

_FILE = "trackers.json"


def numbers(record: Record) -> dict[str, float]:
    """Return the numbers of a record, without that of its epoch.

    >>> numbers({"epoch": 3, "train_bound": -2.0, "valid_bound": None})
    {'train_bound': -2.0}
    """
    return {name: value for name, value in record.items() if name != "epoch" and isinstance(value, (int, float))}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those inside of others by their paths.

    >>> flat({"seed": 0, "optimizer": {"lr": 0.1}})
    {'seed': 0, 'optimizer.lr': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        inside = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else None
        found |= {str(name): value} if inside is None else flat(inside)
    return found


class Tracker(Callback):
    """A run in a service: subclasses open it, log to it and close it.

    Parameters
    ----------
    place
        The service and the place in it, such as ``"wandb digits"``, which tell it from another tracker of the run.
    config
        Settings beside those of ``fit``.
    """

    place: str

    def __init__(self, place: str, config: Mapping[str, Any] | None = None) -> None:
        self.place, self._config = place, dict(config or {})
        self._folder: Path | None = None
        self._is_open = False

    def open(self, config: dict[str, Any], before: str | None, epoch: int) -> tuple[str, int]:
        """Begin a run with these settings, or go on with the one that was begun ``before``.

        Parameters
        ----------
        config
            The settings, by name.
        before
            The name of the run in the service, as this method has returned it.
        epoch
            The last epoch that this run was given.

        Returns
        -------
        The name of the run, and the last epoch that is in it.
        """
        raise NotImplementedError

    def log(self, values: dict[str, float], epoch: int) -> None:
        """Log the numbers of an epoch."""
        raise NotImplementedError

    def close(self, is_interrupted: bool, error: BaseException | None) -> None:
        """End the run. What begins to open it and fails is closed, too."""
        raise NotImplementedError

    def start(self, run: Run) -> None:
        self._folder = run.folder
        known = _read(run.folder) if run.resumed and run.folder is not None else {}
        before = known.get(self.place, {"run": None, "epoch": 0})
        self._is_open = True
        try:
            self._run, last = self.open(run.config | self._config, before["run"], before["epoch"])
            for record in run.records:
                if record["epoch"] > last:
                    self(record)
            self._remember(max(last, len(run.records)))
        except BaseException as error:
            self.finish(History(list(run.records)), error)
            raise

    def __call__(self, record: Record) -> None:
        if not self._is_open:  # used by itself
            self.start(Run())
        self.log(numbers(record), record["epoch"])
        self._remember(record["epoch"])

    def finish(self, history: History, error: BaseException | None) -> None:
        self._is_open = False
        self.close(history.interrupted, error)

    def _remember(self, epoch: int) -> None:
        """Write down what was logged; of others what is written there stays."""
        if self._folder is not None:
            known = _read(self._folder) | {self.place: {"run": self._run, "epoch": epoch}}
            write_text(self._folder / _FILE, json.dumps(known, indent=2) + "\n")


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: found {error}, expected the runs of trackers as JSON") from error
    if not isinstance(known, dict) or not all(map(_is_entry, known.values())):
        raise ValueError(f"{path}: found {str(known)[:100]}, expected the runs of trackers, each with its last epoch")
    return known


def _is_entry(entry: Any) -> bool:
    is_known = isinstance(entry, dict) and entry.keys() == {"run", "epoch"} and isinstance(entry["run"], str)
    return is_known and type(entry["epoch"]) is int and entry["epoch"] >= 0
