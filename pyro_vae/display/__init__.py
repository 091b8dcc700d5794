"""The forms in which results show themselves: figures with errors, tables in text and in notebooks, data frames."""

from pyro_vae.display.digits import rounded, rounded_error, with_error
from pyro_vae.display.result import Result, ResultTable

__all__ = ["Result", "ResultTable", "rounded", "rounded_error", "with_error"]
