"""What a report is about: a pair of programs, some test data, and these data as images with the names of their classes.

A report takes the package's programs, which also sample and reconstruct, and pairs of one's own, which need not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.loading import Splits
from pyro_vae.data.sparse import SparseSplit
from pyro_vae.data.split import Split
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.missing import ObservedOnly, observed_only, unpack
from pyro_vae.programs.labelled import LabelledProgram
from pyro_vae.programs.program import Program
from pyro_vae.reporting.pictures import Pixels, is_images, pixels
from pyro_vae.runtime.modules import placement

__all__ = ["LeftOut", "Subject", "first_of", "subject_of"]


class LeftOut(Exception):
    """A part of the report that means nothing for these programs or data; the message is the reason."""


@dataclass(frozen=True)
class Subject:
    """Programs and N test data, the first of ``num_all``."""

    model: Any
    guide: Any
    program: Program | None
    x: Any
    values: Tensor
    """The data without masks and labels, ``(N, *data_shape)``."""
    num_all: int
    num_levels: int = 1
    """From how many grey levels the data were dequantised; 1 for others."""
    labels: Tensor | None = None
    classes: Sequence[str] | None = None
    name: str = "data"
    records: Sequence[Mapping[str, Any]] = ()
    facts: dict[str, str] = field(default_factory=dict)
    command: str | None = None
    seed: int = 0

    @property
    def shows_images(self) -> bool:
        """Whether the data can be shown as images."""
        if not is_images(tuple(self.values.shape[1:])):
            return False
        low, high = self.values.aminmax()
        return bool(low >= 0) and bool(high <= 1)

    @property
    def device(self) -> torch.device:
        """Where the programs run."""
        return placement(self.model, self.guide)[0]

    def images(self) -> Pixels:
        """Return the data as images.

        Raises
        ------
        LeftOut
            If they are none.
        """
        if not self.shows_images:
            low, high = (float(each) for each in self.values.aminmax())
            shape = tuple(self.values.shape[1:])
            raise LeftOut(
                f"the data are no images: a datum has the shape {shape} and the values lie from {low:.3g} to "
                f"{high:.3g}; images are (H, W) or (1 or 3, H, W), in [0, 1]"
            )
        return pixels(self.values)

    def class_name(self, label: int) -> str:
        """Return what the page calls a class."""
        if self.classes is not None and 0 <= label < len(self.classes):
            return self.classes[label]
        return str(label)


def subject_of(programs: Any, data: Any, num_data: int, **facts: Any) -> Subject:
    """Return the subject: the programs and the first ``num_data`` test data.

    Raises
    ------
    TypeError
        If the programs are neither a :class:`~pyro_vae.programs.program.Program` nor a pair, or the data cannot be cut.
    ValueError
        If there are fewer than 2 data.
    """
    model, guide, program = _pair(programs)
    classes, name = None, "data"
    if isinstance(data, Splits):
        classes, name, data = data.classes, data.name, data.test
    labels, num_levels = getattr(data, "labels", None), getattr(data, "num_levels", 1)
    x = first_of(data, num_data)
    num_all = len(next(iter(data.values())) if isinstance(data, dict) else data[0] if isinstance(data, tuple) else data)
    if isinstance(program, LabelledProgram) and isinstance(x, (tuple, dict)):
        x = program.pack(*x) if isinstance(x, tuple) else program.pack(**x)
    first = next(iter(x.values())) if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x
    if len(first) < 2:
        raise ValueError(f"data: found {len(first)} datum, expected 2 or more")
    values, inner = _unpacked(model, program, first)
    if program is not None and inner is None and values.ndim < first.ndim and not isinstance(bare(model), ObservedOnly):
        model, guide = observed_only(model, guide)  # for data with a mask of what is observed
    labels = inner if labels is None else labels[: len(first)]
    return Subject(
        model, guide, program, x, values.detach().cpu(), num_all, num_levels,
        None if labels is None else labels.cpu(), classes,
        **{"name": name} | facts,
    )  # fmt: skip


def _pair(programs: Any) -> tuple[Any, Any, Program | None]:
    if isinstance(programs, Program):
        return programs.model, programs.guide, programs
    if isinstance(programs, tuple) and len(programs) == 2 and all(map(callable, programs)):
        return *programs, None
    raise TypeError(f"programs: found {type(programs).__name__}, expected a program or a pair (model, guide)")


def first_of(data: Any, num_data: int) -> Any:
    """Return the first data of a split, a tensor, an array, or a tuple or dictionary of these."""
    if isinstance(data, (Split, SparseSplit)):
        return data[:num_data]
    if isinstance(data, (Tensor, np.ndarray)):
        return torch.as_tensor(data[:num_data])
    if isinstance(data, tuple) and data:
        return tuple(first_of(each, num_data) for each in data)
    if isinstance(data, dict) and data:
        return {name: first_of(each, num_data) for name, each in data.items()}
    expected = "what pyro_vae.data.load returns, a split, a tensor, an array, or a tuple or dictionary of these"
    raise TypeError(f"data: found {type(data).__name__}, expected {expected}")


def _unpacked(model: Any, program: Program | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return data without their labels or masks, and the labels that were packed with them."""
    if isinstance(bare(model), ObservedOnly):
        return unpack(model, x)[0], None
    if isinstance(program, LabelledProgram):
        if tuple(x.shape[1:]) == program.data_shape:
            return x, None
        return x[:, :-1].reshape(len(x), *program.data_shape), x[:, -1].long()
    data_shape = getattr(getattr(program, "likelihood", None), "data_shape", None)
    if data_shape is not None and tuple(x.shape[1:]) == (2, *data_shape):
        return x[:, 0], None
    return x, None
