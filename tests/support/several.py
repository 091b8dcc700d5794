"""The tutorials whose programs take several arguments, beside the same of one argument with all packed in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.support.tutorial_runs import Program, Tutorial

NAMES = {
    "M2 labelled": ("xs", "ys"),
    "CVAE": ("xs", "ys"),
    "DMM": ("mini_batch", "backwards", "mask", "lengths"),
}


class OfTwo(PyroModule):
    """A method of a tutorial as a module."""

    def __init__(self, owner: Any, method: str) -> None:
        super().__init__()
        self.owner, self.method = owner, method

    def forward(self, xs: Tensor, ys: Tensor | None = None) -> Any:
        return getattr(self.owner, self.method)(xs, ys)


class OfFour(OfTwo):
    def forward(self, mini_batch: Tensor, backwards: Tensor, mask: Tensor, lengths: Tensor) -> Any:
        return getattr(self.owner, self.method)(mini_batch, backwards, mask, lengths)


class Rows(Dataset):
    """A data set of tuples or, with names, of dictionaries."""

    def __init__(self, entries: tuple[Tensor, ...], names: tuple[str, ...] = ()) -> None:
        self.entries, self.names = entries, names

    def __len__(self) -> int:
        return len(self.entries[0])

    def __getitem__(self, index: int) -> Any:
        row = tuple(entry[index] for entry in self.entries)
        return dict(zip(self.names, row, strict=True)) if self.names else row


class Case(NamedTuple):
    """A pair of programs and its data."""

    pair: tuple[Any, Any]
    data: Any


def case(name: str, form: str) -> Case:
    """A tutorial with its data packed in one tensor, or in a form of several entries; always with the same weights."""
    torch.manual_seed(0)
    tutorial = Tutorial(name)
    for idle in tutorial.idle_names:
        tutorial.module.get_parameter(idle).requires_grad_(False)
    args = tuple(entry.contiguous() for entry in tutorial.args)
    if form.startswith("packed"):
        unpack = lambda x: tuple(entry.contiguous() for entry in tutorial.programs[0].unpack(x))  # noqa: E731
        pair = tuple(Program(tutorial.module, method, unpack) for method in ("model", "guide"))
        return Case(pair, loader(tutorial.packed) if form == "packed in a loader" else tutorial.packed)
    wrapper = OfFour if name == "DMM" else OfTwo
    pair = tuple(wrapper(tutorial.module, method) for method in ("model", "guide"))
    named = dict(zip(NAMES[name], args, strict=True))
    data = {
        "tuples": lambda: loader(Rows(args)),
        "dicts": lambda: loader(Rows(args, NAMES[name])),
        "a tuple": lambda: args,
        "a dict": lambda: named,
    }[form]()
    return Case(pair, data)


def loader(data: Any) -> DataLoader:
    return DataLoader(data, batch_size=3, shuffle=True)
