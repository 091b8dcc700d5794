"""Tables: a data frame, its likelihood, and what a model says of it as frames again."""

from pyro_vae.tables.imputed import ImputedTable
from pyro_vae.tables.table import Table

__all__ = ["ImputedTable", "Table"]
