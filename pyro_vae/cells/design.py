r"""The covariates of cells by name: their categories, and the scales of the continuous ones, as plain data.

.. math:: c = k \;\text{ for category } k, \qquad r = \frac{v - m}{s} .

m and s are the mean and the standard deviation over the cells that the design was fitted on. Further cells are coded
by the same design, so that a code means the same batch, and a number the same age, in all of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pyro_vae.cells.layout import Layout

__all__ = ["Design"]

Numbers: TypeAlias = npt.NDArray[np.float64]
_MOST_SHOWN = 5


class Design(NamedTuple):
    """The genes and the covariates of cells.

    Parameters
    ----------
    genes
        The names of the genes, in the order of the counts.
    categories
        For each categorical covariate, by its column in ``obs``, the names of its categories in the order of their
        codes.
    continuous
        For each continuous covariate, by its column, its mean and standard deviation.
    typical_library
        The median library size of the cells that the design was fitted on.
    has_batch
        Whether the first categorical covariate is the batch.
    """

    genes: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    continuous: dict[str, tuple[float, float]]
    typical_library: float
    has_batch: bool = True

    @classmethod
    def fit(
        cls, adata: Any, batch: str | None, categorical: Sequence[str], continuous: Sequence[str], library: Numbers
    ) -> Design:
        """Return the design of some columns of ``adata.obs``.

        Raises
        ------
        ValueError
            For a column that is missing, has missing entries, or is the same in all cells, and for genes of one name.
        """
        names = list(map(str, adata.var_names))
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise ValueError(
                f"adata: found two genes named {twice!r}, expected names that differ: adata.var_names_make_unique()"
            )
        categorical = [*([] if batch is None else [batch]), *categorical]
        chosen = [*categorical, *continuous]
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"covariates: found {chosen}, expected each column once")
        categories: dict[str, tuple[str, ...]] = {}
        for key in categorical:
            values = _strings(adata, key)
            categories[key] = tuple(sorted(set(values)))
            if len(categories[key]) == 1:
                raise ValueError(f"obs[{key!r}]: found {values[0]!r} in all cells, expected two categories or more")
            if len(categories[key]) > len(values) / 2:
                raise ValueError(
                    f"obs[{key!r}]: found {len(categories[key])} categories among {len(values)} cells, expected few; a "
                    "number belongs in continuous_covariate_keys"
                )
        scales: dict[str, tuple[float, float]] = {}
        for key in continuous:
            numbers = _numbers(adata, key)
            if numbers.std() == 0:
                raise ValueError(f"obs[{key!r}]: found {numbers[0]:g} in all cells, expected numbers that differ")
            scales[key] = float(numbers.mean()), float(numbers.std())
        return cls(tuple(names), categories, scales, float(np.median(library)), batch is not None)

    @property
    def layout(self) -> Layout:
        """The sizes of all this, for :class:`pyro_vae.CellVAE`."""
        sizes = tuple(map(len, self.categories.values()))
        return Layout(len(self.genes), sizes, len(self.continuous))

    @property
    def batches(self) -> tuple[str, ...]:
        """The names of the batches, none without a batch."""
        return next(iter(self.categories.values()), ()) if self.has_batch else ()

    @property
    def checksum(self) -> str:
        """A checksum of what codes cells: of the genes, the categories and the scales, each in its order."""
        coded = {name: self.to_dict()[name] for name in ("genes", "categories", "continuous")}
        return hashlib.sha256(json.dumps(coded).encode()).hexdigest()[:16]

    def check(self, layout: Layout, checksum: str | None = None) -> None:
        """Raise ``ValueError`` for the layout of a program, or the checksum of its design, if it is of other cells."""
        if layout != self.layout:
            raise ValueError(f"vae: found a program of {layout}, expected one of these cells, {self.layout}")
        if checksum not in (None, self.checksum):
            raise ValueError(
                "vae: found a program of cells with other genes, another order of them, or other batches or scales of "
                "covariates, expected these cells under its design: Cells.from_anndata(adata, design=cells.design), or "
                "cells.of(adata)"
            )

    def covariates(self, adata: Any, library: Numbers) -> Numbers:
        """Return the library size, codes and standardised numbers of cells, ``(N, num_covariates)``.

        Raises
        ------
        ValueError
            For a category that the design does not have, and columns that are missing or have missing entries.
        """
        columns = [library]
        for key, names in self.categories.items():
            codes = {name: code for code, name in enumerate(names)}
            values = _strings(adata, key)
            unseen = next((value for value in values if value not in codes), None)
            if unseen is not None:
                raise ValueError(
                    f"obs[{key!r}]: found {unseen!r}, expected one of the {len(names)} categories that the design was "
                    f"fitted on, {_listed(names)}"
                )
            columns.append(np.array([codes[value] for value in values], dtype=np.float64))
        for key, (mean, scale) in self.continuous.items():
            columns.append((_numbers(adata, key) - mean) / scale)
        return np.stack(columns, 1)

    def __str__(self) -> str:
        shown = [f"{key}: {_listed(names)}" for key, names in self.categories.items()] or ["no categories"]
        return (
            f"{len(self.genes)} genes; {'; '.join(shown)}; {', '.join(self.continuous) or 'no continuous covariates'}"
        )

    def code_of(self, batch: str) -> int:
        """Return the code of a batch.

        Raises
        ------
        ValueError
            If there is no such batch.
        """
        if batch not in self.batches:
            found = _listed(self.batches) if self.batches else "none, without a batch_key"
            raise ValueError(f"batch: found {batch!r}, expected one of the batches, {found}")
        return self.batches.index(batch)

    def places(self, genes: Sequence[str] | None) -> list[int]:
        """Return the places of some genes, of all if ``None``.

        Raises
        ------
        ValueError
            If there is no such gene.
        """
        if genes is None:
            return list(range(len(self.genes)))
        places = {name: place for place, name in enumerate(self.genes)}
        if (unknown := [name for name in genes if name not in places]) or len(genes) == 0:
            raise ValueError(f"genes: found {_listed(unknown) or 'none'}, expected names of the {len(places)} genes")
        return [places[name] for name in genes]

    def to_dict(self) -> dict[str, Any]:
        """Return the design as data for JSON.

        >>> design = Design(("A", "B"), {"batch": ("b1", "b2")}, {"age": (40.0, 10.0)}, 1000.0)
        >>> import json
        >>> Design.from_dict(json.loads(json.dumps(design.to_dict()))) == design
        True
        """
        return {
            "genes": list(self.genes),
            "categories": {key: list(names) for key, names in self.categories.items()},
            "continuous": {key: list(scale) for key, scale in self.continuous.items()},
            "typical_library": self.typical_library,
            "has_batch": self.has_batch,
        }

    @classmethod
    def from_dict(cls, data: Any) -> Design:
        """Return the design that :meth:`to_dict` made data of.

        Raises
        ------
        ValueError
            For anything else.
        """
        try:
            design = cls(
                tuple(data["genes"]),
                {key: tuple(names) for key, names in data["categories"].items()},
                {key: (float(mean), float(scale)) for key, (mean, scale) in data["continuous"].items()},
                float(data["typical_library"]),
                data.get("has_batch", True),  # older files do not say, and mean that there is one
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            fields = ", ".join(cls._fields)
            raise ValueError(f"data: found {type(data).__name__}, expected the fields {fields} of to_dict") from error
        names = [design.genes, *design.categories.values()]
        scales = [design.typical_library, *(scale for _, scale in design.continuous.values())]
        unique = all(len(set(each)) == len(each) > 0 and all(isinstance(name, str) for name in each) for each in names)
        if not (unique and all(map(math.isfinite, scales)) and min(scales) > 0 and isinstance(design.has_batch, bool)):
            raise ValueError("data: found names that are not, or not different, or scales that are not positive, "
                             "expected those of to_dict")  # fmt: skip
        return design


def _column(adata: Any, key: str) -> Any:
    if key not in adata.obs:
        raise ValueError(f"obs: found no column {key!r}, expected one of {_listed(list(map(str, adata.obs.columns)))}")
    values = adata.obs[key]
    if (missing := values.isna().to_numpy()).any():
        cell = adata.obs_names[int(missing.argmax())]
        raise ValueError(f"obs[{key!r}]: found no value for cell {cell!r}, expected one for each cell")
    return values


def _strings(adata: Any, key: str) -> list[str]:
    return list(map(str, _column(adata, key)))


def _numbers(adata: Any, key: str) -> Numbers:
    values = _column(adata, key)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"obs[{key!r}]: found {values.dtype}, expected numbers; categories belong in batch_key or "
                         "categorical_covariate_keys")  # fmt: skip
    numbers: Numbers = values.to_numpy().astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"obs[{key!r}]: found {numbers[~np.isfinite(numbers)][0]}, expected finite numbers")
    return numbers


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(map(repr, names[:_MOST_SHOWN])) + rest
