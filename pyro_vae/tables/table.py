r"""A data frame with its likelihood: fitted once, packed into a tensor, and taken back.

.. math:: \text{frame} \xrightarrow{\texttt{pack}} (x, \text{mask}) \xrightarrow{\texttt{unpack}} \text{frame}, \qquad
          p(x|z) = \prod_j p_j\bigl(x_j|f_j(z)\bigr)

Each column has a likelihood of its kind: a Gaussian, a negative binomial, a Bernoulli, or probabilities of categories.
What is missing is left out of the product (:mod:`pyro_vae.inference.missing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.evaluation.imputation import impute
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.missing import ObservedOnly, pack
from pyro_vae.likelihoods import Heterogeneous
from pyro_vae.nn.layers import Activation
from pyro_vae.programs.program import Program
from pyro_vae.programs.vae import VAE
from pyro_vae.runtime.arguments import PositiveInteger, Seed, Widths, checked
from pyro_vae.runtime.kinds import shown
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import seeded
from pyro_vae.tables.columns import Column
from pyro_vae.tables.frames import as_frame, check_names, pandas_for
from pyro_vae.tables.imputed import ImputedTable, frame_of, imputed_table
from pyro_vae.tables.indicators import OnIndicators, to_indicators
from pyro_vae.tables.kinds import check_kinds, column_of
from pyro_vae.tables.likelihoods import likelihood_of, num_categories_of, vae_of

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """The columns of a data frame, and all that is made of them. :meth:`from_frame` fits one.

    Examples
    --------
    >>> import pandas, pyro_vae
    >>> df = pandas.DataFrame({"age": [31.5, None, 50.25, 47.0], "city": ["Rome", "Oslo", None, "Rome"]})
    >>> table = Table.from_frame(df)
    >>> print(table)
    age: real, from 31.5 to 50.25, mean 42.9167, standard deviation 8.18111; 25 % missing
    city: nominal, 2 categories, 'Oslo', 'Rome'; 25 % missing
    >>> vae = table.vae(latent_dim=2)
    >>> history = pyro_vae.fit(
    ...     *pyro_vae.observed_only(vae.model, vae.guide), table.pack(df), num_epochs=2, batch_size=4, progress=False
    ... )
    >>> filled = table.impute(vae.model, vae.guide, df, num_particles=100)
    >>> filled.shape, bool(filled.isna().any(axis=None))
    ((4, 2), False)
    """

    columns: tuple[Column, ...]

    @classmethod
    def from_frame(cls, df: Any, kinds: Mapping[Any, Any] | None = None) -> Table:
        """Fit the columns of a pandas or polars frame.

        Parameters
        ----------
        df
            The frame. None, NaN and NA are missing entries.
        kinds
            The kinds of some columns, ``"real"``, ``"count"``, ``"binary"`` or ``"nominal"``, by name. Those of the
            others are decided (:mod:`pyro_vae.tables.kinds`); print the table to see how.

        Raises
        ------
        ValueError
            For an empty frame, a name that occurs twice, and, by name, a column that cannot be used.
        TypeError
            For anything but a frame.
        """
        df = as_frame(df)
        given = check_kinds(kinds, list(df.columns))
        pandas = pandas_for("df")
        return cls(tuple(column_of(df[name], given.get(name), pandas) for name in df.columns))

    @property
    def names(self) -> list[str | int]:
        """The names of the columns, in their order."""
        return [column.name for column in self.columns]

    def __str__(self) -> str:
        return "\n".join(map(str, self.columns))

    def pack(self, df: Any) -> Tensor:
        """Return a frame with the table's columns as data and mask, ``(N, 2, D)``, as :func:`pyro_vae.pack` does.

        Entry ``[:, 0, j]`` is a standardised number, a count or a code of the column ``names[j]``, 0 where missing.

        Raises
        ------
        ValueError
            For other columns, and, by name, for a category that the table does not have and for infinite numbers.
        """
        df = as_frame(df)
        check_names(df, self.names)
        x = np.full((len(df), len(self.columns)), np.nan)
        for place, column in enumerate(self.columns):
            observed = df[column.name].notna().to_numpy()
            x[observed, place] = column.encode(df[column.name][observed].astype(object).to_numpy())
        return pack(torch.as_tensor(x, dtype=torch.get_default_dtype()))

    def unpack(self, x: Tensor, index: Any = None) -> Any:
        """Return packed data ``(N, 2, D)``, or data ``(N, D)`` with NaN where missing, as a pandas frame.

        Raises
        ------
        ValueError
            For another shape.
        """
        size = len(self.columns)
        if x.dim() not in (2, 3) or tuple(x.shape[1:]) not in ((size,), (2, size)):
            raise ValueError(f"x: found the shape {tuple(x.shape)}, expected (N, 2, {size}) or (N, {size})")
        x = x.detach().double().cpu()
        x = torch.where(x[:, 1] != 0, x[:, 0], torch.nan) if x.dim() == 3 else x
        return frame_of(self.columns, x.numpy(), index)

    def log_scale(self, packed: Tensor) -> Tensor:
        r"""Return the log scales of the observed real entries of each row, ``(N,)`` in nats.

        .. math:: \log p(\text{row in its units}) = \log p(x_o) - \sum_{j\,\text{real, observed}} \log s_j
        """
        scales = [column.log_scale for column in self.columns]
        return packed[:, 1] @ torch.tensor(scales, dtype=packed.dtype, device=packed.device)

    def likelihood(self, network: nn.Module | None) -> Heterogeneous:
        """Return the likelihood of the columns in their order, p(x|z).

        Parameters
        ----------
        network
            The decoder, from z to ``(*batch, table.likelihood(None).num_outputs)``.
        """
        return likelihood_of(self.columns, network)

    @checked
    def vae(
        self, latent_dim: PositiveInteger, hidden_dims: Widths = (200, 200), activation: Activation = "tanh"
    ) -> VAE:
        """Return a VAE with the table's likelihood; the arguments are those of :class:`pyro_vae.VAE`."""
        return vae_of(self.columns, latent_dim, hidden_dims, activation)

    def impute(self, model: StochasticFunction, guide: StochasticFunction, df: Any, **options: Any) -> Any:
        """Return a frame with its missing entries filled in, the ``frame`` of :meth:`imputation`.

        Observed entries stay as they are. The columns come back in the table's types and order.
        """
        return self.imputation(model, guide, df, **options).frame

    def imputation(
        self,
        model: StochasticFunction,
        guide: StochasticFunction,
        df: Any,
        num_particles: PositiveInteger = 1000,
        **options: Any,
    ) -> ImputedTable:
        r"""Fill in a frame, with the probabilities of categories, standard errors and draws.

        .. math:: \mathbb{E}[v_m|x_o], \qquad P(x_m = c|x_o)

        Parameters
        ----------
        model, guide
            A pair of programs with the table's likelihood, as they are or from :func:`pyro_vae.observed_only`.
        df
            A frame with the table's columns.
        num_particles, options
            As for :func:`pyro_vae.impute`: ``num_samples``, ``chunk_size``, ``batch_size``, ``seed``.

        Raises
        ------
        ProgramError
            As :func:`pyro_vae.impute`, and if the observed site has another distribution than the table's.
        ValueError
            For a frame that :meth:`pack` refuses.
        """
        df = as_frame(df)
        packed = self.pack(df)
        numbers = num_categories_of(self.columns)
        on_model, on_guide = (
            OnIndicators(program.program if isinstance(program, ObservedOnly) else program, numbers)
            for program in (model, guide)
        )
        x = to_indicators(packed[:, 0], numbers)  # (N, F)
        mask = packed[:, 1].repeat_interleave(torch.tensor([number or 1 for number in numbers]), -1)
        found = impute(on_model, on_guide, x, mask, num_particles, **options)
        return imputed_table(self.columns, df, packed[:, 1] != 0, found)

    @checked
    def sample(self, vae: Program, num_samples: PositiveInteger, *, seed: Seed | None = None) -> Any:
        """Draw a frame of ``num_samples`` rows from p(x): numbers in their units, and categories by their names.

        ``vae`` is a program with the table's likelihood; a ``seed`` leaves the caller's generators as they were.
        """
        with seeded(seed, placement(vae)[0]):
            return self.unpack(vae.sample(num_samples))

    def to_dict(self) -> dict[str, Any]:
        """Return the table as data for JSON.

        >>> import json, pandas
        >>> table = Table.from_frame(pandas.DataFrame({"x": [1.5, 2.0], "y": ["a", "b"]}))
        >>> Table.from_dict(json.loads(json.dumps(table.to_dict()))) == table
        True
        """
        return {"columns": [column.to_dict() for column in self.columns]}

    @classmethod
    def from_dict(cls, data: Any) -> Table:
        """Return the table that :meth:`to_dict` made data of.

        Raises
        ------
        ValueError
            For anything else, by its place in the data.
        """
        columns = data.get("columns") if isinstance(data, Mapping) else None
        if not isinstance(columns, (list, tuple)) or not columns:
            raise ValueError(f"data: found {shown(data)}, expected {{'columns': [...]}}, as to_dict returns it")
        table = cls(tuple(Column.from_dict(each, f"columns[{place}]") for place, each in enumerate(columns)))
        if len(set(table.names)) < len(table.names):
            raise ValueError(f"columns: found the names {table.names}, expected names that differ")
        return table
