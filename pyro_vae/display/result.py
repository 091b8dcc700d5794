"""Results that print as a few lines, show a table in a notebook, and become a data frame.

A result tells its table: a header, rows of text and sentences below. The text form aligns the same table that the web
form marks up. That one sets no colours, so that it is readable on a light page and on a dark one, and it escapes what
it shows, since names of sites and classes come from the user.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyro_vae.runtime.optional import imported, install

__all__ = ["Result", "ResultTable"]


@dataclass(frozen=True)
class ResultTable:
    """What a result shows: a title, a header, rows of text whose first cell is a label, and sentences below."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()

    def as_text(self) -> str:
        """Return aligned lines: labels to the left, all else to the right."""
        rows = [tuple(self.header), *map(tuple, self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([label.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))]).rstrip()
            for label, *cells in rows
        ]
        title, notes = [self.title] if self.title else [], ["", *self.notes] if self.notes else []
        return "\n".join([*title, *lines, *notes])

    def as_html(self) -> str:
        """Return an HTML table, escaped, in the colours of the page that it stands on."""
        rows = [_row("th", self.header), *(_row("td", cells) for cells in self.rows)]
        title = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.notes)
        return f'<table style="color: inherit; background: none">{title}{"".join(rows)}</table>{notes}'


class Result:
    """What can be printed, shown in a notebook, and put into a data frame; subclasses tell the table and the columns.

    ``print`` and the prompt of Python show :meth:`_table` as text, a notebook shows it as HTML.
    """

    def _table(self) -> ResultTable:
        raise NotImplementedError

    def _columns(self) -> dict[str, Any]:
        """Return the columns of the data frame: tensors, arrays or lists of one length."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self._table().as_text()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self._table().as_html()

    def to_frame(self) -> Any:
        """Return a data frame of pandas; needs ``pip install "pyro_vae[tables]"``."""
        pandas = imported("pandas", "pandas", "to_frame", install("tables"))
        return pandas.DataFrame({name: _as_column(values) for name, values in self._columns().items()})


def _row(tag: str, cells: Sequence[str]) -> str:
    sides = ("left", *("right" for _ in cells[1:]))
    marked = (
        f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{''.join(marked)}</tr>"


def _as_column(values: Any) -> npt.NDArray[Any] | list[Any]:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return values if isinstance(values, np.ndarray) else list(values)
