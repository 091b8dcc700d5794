"""Runs of tables: a file of columns is trained on as a :class:`pyro_vae.Table`.

The columns are fitted once, on all rows, and stand in the run's ``config.json`` from then on. So what is evaluated or
scored later is standardised and coded as the run had it, whatever became of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from pyro_vae.commands.options import LIKELIHOODS
from pyro_vae.data.files import read_file
from pyro_vae.data.frames import column, without
from pyro_vae.data.sources import Name
from pyro_vae.inference.missing import observed_only
from pyro_vae.tables.table import Table

__all__ = ["is_table", "packed", "pair_of", "table_of", "with_table"]

_SUFFIXES = (".csv", ".tsv", ".parquet")
_NO_USE = {"binarize": "auto", "key": None, "size": None, "channel_order": "auto"}


def is_table(name: str) -> bool:
    """Return whether data are a table, by the name of their file."""
    return name not in get_args(Name) and Path(name).suffix.lower() in _SUFFIXES


def with_table(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with its table, if its data are one; what cannot go with it is refused.

    Raises
    ------
    ValueError
        For a program other than a VAE, a likelihood other than that of the columns, and options of other data.
    """
    if not is_table(config["data"]):
        if config["likelihood"] == "columns":
            raise ValueError(f"--likelihood: found columns for {config['data']}, expected {', '.join(LIKELIHOODS[:4])}")
        return config
    if config["program"] != "vae":
        raise ValueError(f"--program: found {config['program']} for a table, expected vae")
    for name, default in _NO_USE.items():
        if config[name] not in (default, "none"):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag}: found {config[name]} for a table, expected none, since it has no use there")
    if config["likelihood"] not in (None, "columns"):
        raise ValueError(f"--likelihood: found {config['likelihood']} for a table, expected columns, or none")
    table = config.get("table") or Table.from_frame(_frame(config, config["data"])[0]).to_dict()
    return config | {"likelihood": "columns", "table": table}


def table_of(config: dict[str, Any]) -> Table | None:
    """Return the table of a run, or ``None`` if its data are none."""
    return Table.from_dict(config["table"]) if "table" in config else None


def packed(config: dict[str, Any], path: str, is_new: bool = False) -> tuple[Tensor, Any]:
    """Return the rows of a file as the run's table has them, and their labels, which new data need not have."""
    frame, labels = _frame(config, path, is_new)
    table = table_of(config)
    assert table is not None
    return table.pack(frame), labels


def pair_of(program: Any, config: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Return the model and the guide of a program, those of a table with what is missing left out."""
    pair: tuple[nn.Module, nn.Module] = program.model, program.guide
    return observed_only(*pair) if "table" in config else pair


def _frame(config: dict[str, Any], path: str, is_new: bool = False) -> tuple[Any, Any]:
    """Return the columns of a file that are modelled, and the labels."""
    if not is_table(path):
        raise ValueError(f"--data: found {path} for the run of a table, expected a file {', '.join(_SUFFIXES)}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"data: found no file {path!r}, expected a table")
    table = table_of(config)
    columns = () if table is None else table.columns
    texts = [each.name for each in columns if any(isinstance(category, str) for category in each.categories)]
    frame, name = read_file(Path(path), texts), config["labels"]
    if name is None or (is_new and name not in frame.columns):
        return frame, None
    labels = column(frame, name)  # first, as it may be missing
    return without(frame, name), labels
