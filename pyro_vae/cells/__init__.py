"""Single cells: AnnData, a program of their counts, normalised expression and differential expression."""

from pyro_vae.cells.cells import Cells
from pyro_vae.cells.design import Design
from pyro_vae.cells.program import CellVAE

__all__ = ["CellVAE", "Cells", "Design"]
