"""The settings of a training run: made from the command line, kept in config.json, and read back to resume.

config.json is read by the parser of the command line, so that an edited file is held to the same types and choices.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch

from pyro_vae.commands.options import SETTINGS, flag, own_options, parse
from pyro_vae.data.sources import Name

BLACK_AND_WHITE = ("digits", "mnist", "fashion_mnist")
# These came after version 0.1.0: a config.json without one means its default, which is what there was before.
LATER = ("program", "clip_norm", "precision", "compile", "labels", "key", "size", "channel_order")


def configure(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Return settings and folder, of a new run or of the run that is resumed."""
    if args.resume is not None:
        folder = Path(args.resume)
        config = read_config(folder, "--resume")
        check_resumed(args.given, config, folder)
        return config, folder
    if args.data_root is not None and args.data not in get_args(Name):
        names = ", ".join(get_args(Name))
        raise ValueError(f"--data-root: found {args.data_root} for {args.data}, expected none, since it is for {names}")
    config = with_whole_paths({name: getattr(args, name) for name in SETTINGS})
    folder = Path(args.out) if args.out else new_folder(Path(args.data).stem)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"--out: found files in {folder}, expected a new folder; --resume {folder} goes on with a run"
        )
    for name, default in own_settings(config).items():
        config[name] = default if config[name] is None else config[name]
    if config["likelihood"] not in (None, "bernoulli") and config["data"] in BLACK_AND_WHITE:
        config["binarize"] = "none" if args.binarize == "auto" else args.binarize  # a density is of the grey levels
    elif config["likelihood"] is None:
        binary = args.binarize not in ("auto", "none") or (args.binarize == "auto" and args.data in BLACK_AND_WHITE)
        of_others = "gaussian" if args.data in get_args(Name) else None  # to be decided when they are read
        config["likelihood"] = "bernoulli" if binary else of_others
    return config | {"pyro_vae": import_module("pyro_vae").__version__, "torch": torch.__version__}, folder


def own_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the program and the objective of a run take, with their defaults."""
    return own_options("model", config["program"]) | own_options("bound", config["objective"])


def with_whole_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with absolute paths, since --resume and others may run in another folder."""
    data = str(settings.get("data"))
    is_own = data not in get_args(Name) and (bool(Path(data).suffix) or os.sep in data or Path(data).exists())
    paths = [name for name in ("data_root", *(["data"] if is_own else [])) if settings.get(name)]
    return settings | {name: str(Path(settings[name]).resolve()) for name in paths}


def new_folder(data: str) -> Path:
    """Return a folder under runs/ that does not exist yet, named after the data and the time."""
    name = f"runs/{data}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (f"{name}{suffix}" for suffix in ("", *(f"-{count}" for count in range(2, 1000))))
    return next(Path(name) for name in names if not Path(name).exists())


def check_resumed(given: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Refuse options beside --resume that differ from the settings of the run."""
    if "out" in given and Path(given["out"]).resolve() != folder.resolve():
        raise ValueError(f"--out: found {given['out']} beside --resume {folder}, expected no other folder")
    for name, value in with_whole_paths(given).items():
        if name in SETTINGS and value != config[name]:
            raise ValueError(
                f"{flag(name)}: found {value} beside --resume, expected {config[name]} as in {folder / 'config.json'}"
            )


class ConfigParser(argparse.ArgumentParser):
    """A parser of config.json, which raises errors instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read_config(folder: Path, argument: str) -> dict[str, Any]:
    """Return the settings of a run, each of the type and among the choices that the command line has for it."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: found no config.json in {folder}, expected the folder of a run")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"found {type(config).__name__}, expected the settings by name")
        args = vars(parse(as_arguments(config), make=ConfigParser))
        required = [name for name, option in SETTINGS.items() if not option.defaults and name not in LATER]
        for name in (*required, *own_settings(args)):
            if name not in config:
                raise ValueError(f"found no {name!r}, expected one as in every run")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error)[:300]}") from error
    return config | {name: args[name] for name in SETTINGS}


def as_arguments(config: dict[str, Any]) -> list[str]:
    """Return the command line that gives these settings."""
    arguments = []
    for name, value in config.items():
        if name not in SETTINGS or value is None:
            continue
        if SETTINGS[name].type is bool and isinstance(value, bool):
            arguments += [flag(name)] * value
        elif isinstance(value, list):
            layers = [",".join(map(str, item)) if isinstance(item, list) else str(item) for item in value]
            arguments += [flag(name), *layers]
        else:
            arguments.append(f"{flag(name)}={value}")
    return arguments
