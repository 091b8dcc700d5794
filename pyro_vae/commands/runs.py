"""What a run is made of: its data, its device, its program, and how the KL of that program is weighed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from pyro_vae.commands.options import COMPILE, PROGRAMS, own_options
from pyro_vae.commands.settings import read_config
from pyro_vae.data.loading import Splits, load
from pyro_vae.inference.annealing import anneal_kl
from pyro_vae.programs.conv_ladder import ConvLadderVAE
from pyro_vae.runtime.allocation import BoundedAllocation
from pyro_vae.runtime.tensor_files import read_tensors
from pyro_vae.schedules import Linear, Schedule
from pyro_vae.training import checkpoint

__all__ = ["Device", "best_device", "build", "load_data", "load_run", "speed", "weighed"]

Device: TypeAlias = Literal["auto", "cpu", "cuda"]


def load_data(config: dict[str, Any]) -> Splits:
    """Load the data of a run."""
    name = config["data"]
    source = np.load(name, allow_pickle=False) if name.endswith(".npy") else name
    binarize = None if config["binarize"] == "none" else config["binarize"]
    return load(source, config["data_root"], binarize, seed=config["seed"])


def load_run(run: str) -> tuple[dict[str, Any], Any]:
    """Return the settings of a finished run and its program with the best weights."""
    return read_config(Path(run), "RUN"), checkpoint.load(run)


def best_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: found cuda, but torch sees no CUDA device; expected cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def build(config: dict[str, Any], splits: Splits, resumed: Path | None = None) -> Any:
    """Make the program; of a run that is resumed, it may take no more memory than the run's weights."""
    torch.manual_seed(config["seed"])
    make = PROGRAMS[config["program"]]
    arguments = {name: config[name] for name in (*own_options("model", config["program"]), "likelihood")}
    if resumed is None:
        vae: Any = make(splits.data_shape, **arguments)
    else:
        tensors, _ = read_tensors(resumed / "last.safetensors")
        try:
            with BoundedAllocation(tensors.values()):
                vae = make(splits.data_shape, **arguments)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{resumed / 'config.json'}: {error}") from error
    if config["likelihood"] == "bernoulli" and make is not ConvLadderVAE:
        vae.likelihood.start_at_mean(splits.train.mean())
    return vae


def weighed(vae: Any, num_steps: int, config: dict[str, Any]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return model and guide with the KL weighed as set; ``num_steps`` are those of an epoch."""
    weight: float | Schedule = config["kl_weight"]
    if config["warm_up"]:
        weight = Linear(config["warm_up"] * num_steps, end=config["kl_weight"])
    elif weight == 1:
        return vae.model, vae.guide
    return anneal_kl(vae.model, vae.guide, weight)


def speed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the precision and the choice to compile, the same for training and scoring."""
    return {"precision": config["precision"], "compile": COMPILE[config["compile"]]}
