"""What a run is made of: its data, its device, its program, and how the KL of that program is weighed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from pyro_vae.commands.levels import levels_like, levels_of
from pyro_vae.commands.likelihoods import likelihood_for, vae_of_numbers
from pyro_vae.commands.options import COMPILE, PROGRAMS, own_options
from pyro_vae.commands.settings import BLACK_AND_WHITE, read_config
from pyro_vae.commands.tables import packed, pair_of, table_of, with_table
from pyro_vae.data.files import Archive
from pyro_vae.data.loading import Split, Splits, load, load_whole
from pyro_vae.data.sparse import SparseSplit
from pyro_vae.inference.annealing import anneal_kl
from pyro_vae.programs.conv_ladder import ConvLadderVAE
from pyro_vae.runtime.allocation import BoundedAllocation
from pyro_vae.runtime.tensor_files import read_tensors
from pyro_vae.schedules import Linear, Schedule
from pyro_vae.training import checkpoint

__all__ = ["Device", "best_device", "build", "load_data", "load_new", "load_run", "prepared", "speed", "weighed"]

Device: TypeAlias = Literal["auto", "cpu", "cuda"]


def prepared(config: dict[str, Any]) -> tuple[dict[str, Any], Splits]:
    """Return the settings of a run with all that its data decide, and the data."""
    config = with_table(config)
    splits = load_data(config)
    return {"levels": levels_of(splits)} | config | {"likelihood": likelihood_for(config, splits)}, splits


def load_data(config: dict[str, Any]) -> Splits:
    """Load the data of a run, rows of a table packed with their mask."""
    if "table" in config:
        rows, labels = packed(config, config["data"])
        return replace(load(rows, labels=labels, seed=config["seed"]), name=Path(config["data"]).name)
    return load(config["data"], config["data_root"], _binarize(config), seed=config["seed"], **_reading(config))


def load_new(config: dict[str, Any], path: str, seed: int) -> Split | SparseSplit | torch.Tensor:
    """Load all data of a file or folder as the run has them; of a program without settings, as they are."""
    if "table" in config:
        return packed(config, path, is_new=True)[0]
    reading = _reading(config)
    is_beside = path.endswith(".npz") and reading["labels"] in Archive(Path(path)).names
    binarize = _binarize(config) if config else None
    if binarize == "auto":  # as the run was trained
        binarize = "dynamic" if config["data"] in BLACK_AND_WHITE else None
    return load_whole(
        path,
        binarize,
        seed=seed,
        levels_of=levels_like(config, path),
        **reading | {"labels": reading["labels"] if is_beside else None},
    )


def _binarize(config: dict[str, Any]) -> Any:
    return None if config["binarize"] == "none" else config["binarize"]


def _reading(config: dict[str, Any]) -> dict[str, Any]:
    """Return how data of one's own are read."""
    size = config.get("size")
    return {
        "labels": config.get("labels"),
        "key": config.get("key"),
        "size": size[0] if size is not None and len(size) == 1 else size,
        "channels": config.get("channel_order", "auto"),
    }


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
    if resumed is None:
        vae: Any = _made(config, splits)
    else:
        tensors, _ = read_tensors(resumed / "last.safetensors")
        try:
            with BoundedAllocation(tensors.values()):
                vae = _made(config, splits)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{resumed / 'config.json'}: {error}") from error
    if config["likelihood"] == "bernoulli" and not isinstance(vae, ConvLadderVAE):
        vae.likelihood.start_at_mean(splits.train.mean())
    return vae


def _made(config: dict[str, Any], splits: Splits) -> Any:
    own = {name: config[name] for name in own_options("model", config["program"])}
    if (table := table_of(config)) is not None:
        return table.vae(**own)
    if config["likelihood"] in ("real", "counts"):
        return vae_of_numbers(config, splits)
    return PROGRAMS[config["program"]](splits.data_shape, **own, likelihood=config["likelihood"])


def weighed(vae: Any, num_steps: int, config: dict[str, Any]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return model and guide with the KL weighed as set; ``num_steps`` are those of an epoch."""
    weight: float | Schedule = config["kl_weight"]
    if config["warm_up"]:
        weight = Linear(config["warm_up"] * num_steps, end=config["kl_weight"])
    elif weight == 1:
        return pair_of(vae, config)
    return anneal_kl(*pair_of(vae, config), weight)


def speed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the precision and the choice to compile, the same for training and scoring."""
    return {"precision": config["precision"], "compile": COMPILE[config["compile"]]}
