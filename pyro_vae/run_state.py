"""All it takes to go on with a run from where it stands: weights, optimiser, schedule, generators, position.

The state is a flat dictionary of tensors and a JSON document. It serves three times: written to ``last.safetensors`` it
resumes a run that died, kept in memory it is where a diverged epoch goes back to, and run forward again it finds the
step at which the epoch diverged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.batches import Batches
from pyro_vae.checkpoint import WEIGHTS, read_tensors, restore, write_tensors
from pyro_vae.state import generators, set_generators

__all__ = ["RunState"]

_FILE = "last.safetensors"
_FORMAT = 2  # 1 had no losses in its records


class RunState:
    """The mutable state of one training run."""

    def __init__(self, pair: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, device: torch.device) -> None:
        self.pair, self.optimizer, self.scheduler, self.device = pair, optimizer, scheduler, device
        self.records: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.epoch = 0  # epochs finished
        self.step = 0  # steps taken in all
        self.epoch_step = 0  # steps taken in the epoch under way
        self.count = 0  # data seen in it
        self.seconds = 0.0  # spent on it
        self.bounds = torch.zeros(2, dtype=torch.float64, device=device)  # summed over it: the true one, the maximised
        self.epoch_generators = generators(self.device)  # as they were when it began

    def remaining(self, batches: Batches) -> Iterator[Tensor | slice]:
        """The picks of what is left of the epoch; generators end up where an uninterrupted epoch has them."""
        now = generators(self.device)
        if self.epoch_step == 0:
            self.epoch_generators = now
        set_generators(self.epoch_generators, self.device)
        rest = batches.picks()
        for _ in range(self.epoch_step):
            next(rest)
        if self.epoch_step:
            set_generators(now, self.device)
        yield from rest

    def count_step(self, bounds: Tensor, num_data: int) -> None:
        """Count a step on ``num_data`` data whose true bounds, and what was maximised, sum to ``bounds``."""
        self.bounds += bounds
        self.count += num_data
        self.step += 1
        self.epoch_step += 1

    def mean_bounds(self) -> list[float]:
        """The mean true bound of the epoch so far, and of what was maximised, nats per datum: reads the device."""
        return (self.bounds / self.count).tolist()

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Keep the epoch's record and move on to the next."""
        self.records.append(record)
        self.epoch += 1
        self.epoch_step, self.count, self.seconds = 0, 0, 0.0
        self.bounds.zero_()
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(record["train_loss"] if record["valid_loss"] is None else record["valid_loss"])
        elif self.scheduler is not None:
            self.scheduler.step()

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copy the state, as named tensors and plain data."""
        tensors = {f"program.{name}": tensor for name, tensor in self.pair.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in optimizer["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    plain.setdefault(str(index), {})[name] = value
        tensors |= {f"generator.{name}": state for name, state in generators(self.device).items()}
        tensors |= {f"epoch_generator.{name}": state for name, state in self.epoch_generators.items()}
        tensors["bounds"] = self.bounds
        position = {name: getattr(self, name) for name in ("epoch", "step", "epoch_step", "count", "seconds")}
        document = {
            "format": _FORMAT,
            "position": position,
            "records": list(self.records),
            "facts": self.facts,
            "optimizer": {"param_groups": optimizer["param_groups"], "plain": plain},
            "scheduler": None if self.scheduler is None else _keys_kept(self.scheduler.state_dict()),
        }
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Go back to a snapshot."""

        def named(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}

        restore(self.pair, named("program."), _FILE)
        slots: dict[int, dict[str, Any]] = {}
        for name, tensor in named("optimizer.").items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor.clone()
        for index, values in document["optimizer"]["plain"].items():
            slots.setdefault(int(index), {}).update(values)
        self.optimizer.load_state_dict({"state": slots, "param_groups": document["optimizer"]["param_groups"]})
        if self.scheduler is not None:
            self.scheduler.load_state_dict(_keys_back(document["scheduler"]))
        for name, value in document["position"].items():
            setattr(self, name, value)
        self.records[:] = document["records"]
        self.bounds.copy_(tensors["bounds"])
        self.epoch_generators = named("epoch_generator.")
        set_generators(named("generator."), self.device)

    def write(self, folder: Path) -> None:
        """Write the state to ``last.safetensors``, atomically."""
        tensors, document = self.snapshot()
        write_tensors(folder / _FILE, tensors, {"run": json.dumps(document)})

    def open(self, folder: Path, resume: bool, facts: dict[str, Any]) -> None:
        """Start a run in ``folder``, or take up the one that is there. ``facts`` must be the same when it is taken up.

        Raises
        ------
        FileExistsError
            If the folder holds a run, or a saved program, and ``resume`` is false.
        FileNotFoundError
            If it holds none and ``resume`` is true.
        ValueError
            If the run there was made with other facts, another program or another optimiser.
        """
        self.facts = facts
        path = folder / _FILE
        if not resume:
            if path.exists() or (folder / WEIGHTS).exists():
                raise FileExistsError(
                    f"checkpoint: found another run in {folder}, expected resume=True or a new folder"
                )
            self.write(folder)
            return
        tensors, metadata = read_tensors(path)
        try:
            document = json.loads(metadata["run"])
            found, form = document["facts"], document["format"]
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: not the state of a training run: {error!r}") from error
        if form != _FORMAT:
            raise ValueError(f"{path}: found a run in format {form}, expected {_FORMAT}: begin it anew")
        for name, value in facts.items():
            if found.get(name) != value:
                raise ValueError(f"{name}: found {value}, expected {found.get(name)} as in the run in {folder}")
        self.restore(tensors, document)


def _keys_kept(value: Any) -> Any:
    """Write a dictionary whose keys are not strings, such as the milestones of a schedule, so that JSON keeps them."""
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _keys_kept(item) for key, item in value.items()}
        return {"items": [[key, item] for key, item in value.items()]}
    return [_keys_kept(item) for item in value] if isinstance(value, (list, tuple)) else value


def _keys_back(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"items"}:
            return Counter(dict(value["items"]))
        return {key: _keys_back(item) for key, item in value.items()}
    return [_keys_back(item) for item in value] if isinstance(value, list) else value
