"""All it takes to go on with a run from where it stands: weights, optimiser, schedule, generators, position.

The state is a flat dictionary of tensors and a JSON document. It serves three times: written to ``last.safetensors`` it
resumes a run that died, kept in memory it is where a diverged epoch goes back to, and run forward again it finds the
step at which the epoch diverged. What comes from a file is checked as a whole before any of it is used,
:mod:`pyro_vae.training.state_check`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data.batches import Batches, Pick
from pyro_vae.runtime.files import remove_leftovers
from pyro_vae.runtime.state import generators, set_generators
from pyro_vae.runtime.tensor_files import parse, read_tensors, write_tensors
from pyro_vae.training.checkpoint import WEIGHTS, check_tensors, recipe_of, restore
from pyro_vae.training.modules import refuse_another_program, warn_of_own_parts
from pyro_vae.training.optimizer_check import check_groups, check_scheduler, check_slots, slots_of
from pyro_vae.training.plain import keys_back, keys_kept, named, slots_from
from pyro_vae.training.state_check import check_facts, check_generators, check_position, refuse_another

__all__ = ["FILE", "RunState"]

FILE = "last.safetensors"
_FORMAT = 2  # 1 had no losses in its records


class RunState:
    """The mutable state of one training run; of ``batches`` the generators, as a loader may have its own."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        device: torch.device,
        batches: Batches | None = None,
    ) -> None:
        self.module, self.optimizer, self.scheduler, self.device = module, optimizer, scheduler, device
        self.batches = batches
        self.records: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.epoch = 0  # epochs finished
        self.step = 0  # steps taken in all
        self.epoch_step = 0  # steps taken in the epoch under way
        self.count, self.seconds = 0, 0.0  # data seen in it, and the time spent on it
        self.bounds = torch.zeros(2, dtype=torch.float64, device=device)  # summed over it: the true one, the maximised
        self.epoch_generators = self._generators()  # as they were when it began
        self._folder: Path | None = None  # that has the state in it
        self.compiled: bool | None = None  # what "auto" chose when it began

    def _generators(self) -> dict[str, Tensor]:
        return generators(self.device) if self.batches is None else self.batches.generators()

    def _set_generators(self, states: dict[str, Tensor]) -> None:
        if self.batches is None:
            set_generators(states, self.device)
        else:
            self.batches.set_generators(states)

    def remaining(self, batches: Batches) -> Iterator[Pick]:
        """The picks of what is left of the epoch; generators end up where an uninterrupted epoch has them."""
        if self.epoch > 0:
            batches.start_workers()
        now = self._generators()
        self.epoch_generators = self.epoch_generators if self.epoch_step else now
        self._set_generators(self.epoch_generators)
        skipped = batches.skip(self.epoch_step)
        rest = batches.picks(None if self.epoch_step else self._draw_apart)
        for step in range(skipped, self.epoch_step):
            if next(rest, None) is None:
                raise ValueError(f"data: found {step} batches, expected the {self.epoch_step} that the epoch has had")
        first = list(islice(rest, min(skipped, 1)))  # when its order is drawn
        if self.epoch_step:  # a loader's own are where its new pass has them, which may be ahead, by what it fetches
            set_generators(now, self.device)
        yield from chain(first, rest)

    def _draw_apart(self) -> None:
        """Do what has to be done when the order of an epoch is drawn."""

    def count_steps(self, num_steps: int, num_data: int) -> None:
        """Count steps on ``num_data`` data, whose bounds have been added to ``bounds``."""
        self.count += num_data
        self.step += num_steps
        self.epoch_step += num_steps

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
        tensors = {f"program.{name}": tensor for name, tensor in self.module.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in optimizer["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    plain.setdefault(str(index), {})[name] = value
        tensors |= {f"generator.{name}": state for name, state in self._generators().items()}
        tensors |= {f"epoch_generator.{name}": state for name, state in self.epoch_generators.items()}
        tensors["bounds"] = self.bounds
        document = {
            "format": _FORMAT,
            "position": {name: getattr(self, name) for name in ("epoch", "step", "epoch_step", "count", "seconds")},
            "records": list(self.records),
            "facts": self.facts,
            "compiled": self.compiled,
            "optimizer": {
                "param_groups": optimizer["param_groups"],
                "plain": plain,
                "slots": sorted(index for index, values in optimizer["state"].items() if values),
            },
            "scheduler": None if self.scheduler is None else keys_kept(self.scheduler.state_dict()),
        }
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Go back to a snapshot."""
        restore(self.module, named(tensors, "program."), FILE)
        slots, groups = slots_from(tensors, document["optimizer"]["plain"]), document["optimizer"]["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if self.scheduler is not None:
            self.scheduler.load_state_dict(keys_back(document["scheduler"]))
        for name, value in document["position"].items():
            setattr(self, name, value)
        self.records[:] = document["records"]
        self.compiled = document["compiled"] if isinstance(document.get("compiled"), bool) else None
        self.bounds.copy_(tensors["bounds"])
        self.epoch_generators = named(tensors, "epoch_generator.")
        self._set_generators(named(tensors, "generator."))

    def check(self, tensors: dict[str, Tensor], document: dict[str, Any], source: object) -> None:
        """Refuse a snapshot that is not one of this run, which has to be at its beginning.

        Raises
        ------
        ValueError
            For the first of its parts that is wrong; nothing is changed then.
        """
        check_tensors(self.module, named(tensors, "program."), source)
        optimizer = document.get("optimizer")
        if not isinstance(optimizer, dict) or not isinstance(optimizer.get("plain"), dict):
            raise ValueError(f"{source}: optimizer: found no state of one, expected param_groups and plain")
        if (document.get("scheduler") is None) != (self.scheduler is None):
            raise ValueError(
                f"{source}: scheduler: found none or one too many, expected {type(self.scheduler).__name__}"
            )
        number = "(0|[1-9][0-9]{0,8})"
        kinds = rf"(program|generator|epoch_generator|rank\.{number})\..*|optimizer\.{number}\.[^.]+|bounds"
        for name in tensors:
            if not re.fullmatch(kinds, name):
                raise ValueError(f"{source}: found the tensor {name!r}, expected none of that name")
        for index, values in optimizer["plain"].items():
            if not re.fullmatch(r"0|[1-9][0-9]{0,8}", index) or not isinstance(values, dict):
                raise ValueError(f"{source}: optimizer: plain: found {index!r}, expected slots by parameters' numbers")
        expected = self.optimizer.state_dict()["param_groups"]
        check_groups(source, optimizer.get("param_groups"), expected, self.scheduler)
        slots = slots_from(tensors, optimizer["plain"])
        groups = [] if type(self.optimizer).__module__.startswith("torch.") else self.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        check_slots(source, slots, slots_of(self.optimizer), optimizer.get("slots"), parameters)
        if self.scheduler is not None:
            check_scheduler(source, document["scheduler"], self.scheduler)
        check_position(source, document.get("position"), document.get("records"))
        now = self._generators()
        check_generators(source, "generator", named(tensors, "generator."), now)
        check_generators(source, "epoch_generator", named(tensors, "epoch_generator."), now)
        for rank in {name.rpartition(".")[0] for name in tensors if name.startswith("rank.")}:
            check_generators(source, rank, named(tensors, f"{rank}."), generators(self.device))
        bounds = tensors.get("bounds")
        if bounds is None or bounds.dtype != torch.float64 or bounds.shape != (2,) or not bounds.isfinite().all():
            raise ValueError(f"{source}: bounds: found {bounds}, expected two finite sums in float64")

    def write(self, folder: Path) -> None:
        """Write the state to ``last.safetensors``, atomically.

        Raises
        ------
        FileNotFoundError
            If it is no longer where it was: the folder was moved or emptied while the run went on.
        OSError
            If it cannot be written; the state before stays.
        """
        self._write(folder, *self.snapshot())

    def _write(self, folder: Path, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        if folder == self._folder and not (folder / FILE).is_file():
            raise FileNotFoundError(f"checkpoint: found no {FILE} in {folder}, expected the one that this run wrote")
        write_tensors(folder / FILE, tensors, {"run": json.dumps(document)})
        self._folder = folder

    def open(self, folder: Path | None, resume: bool, facts: dict[str, Any], keep_rates: bool = False) -> None:
        """Start a run in ``folder``, if one is given, or take up the one that is there, which must have the same facts.

        With ``keep_rates`` the optimiser keeps the learning rates that it has, so that a run may go on with another.

        Raises
        ------
        FileExistsError
            If the folder holds a run, or a saved program, and ``resume`` is false.
        FileNotFoundError
            If it holds none and ``resume`` is true.
        ValueError
            If the run there was made with other facts, another program or another optimiser, or was changed since; or
            if the program could not be saved, as a part of it was replaced after it was built.
        """
        self.facts = facts
        if folder is None:
            return
        path, recipe = folder / FILE, recipe_of(self.module)  # what cannot be saved later is refused now
        if not resume:
            refuse_another(path, folder / WEIGHTS)
            self.write(folder)
            warn_of_own_parts(self.module, recipe, stacklevel=5)
            return
        tensors, metadata = read_tensors(path)
        document = parse(path, metadata.get("run", "null"))
        check_facts(path, document, facts, _FORMAT)
        self.check(tensors, document, path)
        refuse_another_program(path, document["facts"].get("program"), self.module, tensors.values())
        remove_leftovers(folder)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.restore(tensors, document)
        if keep_rates:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self._folder = folder
