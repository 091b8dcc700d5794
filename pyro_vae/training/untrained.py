"""A warning that names the parameters which an objective does not train."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Untrained", "some_of"]


def some_of(names: list[str]) -> str:
    """Return the first of some names, for a message.

    >>> some_of(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


class Untrained:
    """The parameters without a gradient so far, watched for one whole epoch."""

    def __init__(self, module: nn.Module, objective: Any, trained: Sequence[Tensor]) -> None:
        self.objective = objective
        ids = set(map(id, trained))
        self.parameters = {name: parameter for name, parameter in module.named_parameters() if id(parameter) in ids}

    def count_steps(self, has_gradient: Callable[[nn.Parameter], bool]) -> None:
        """Take out the parameters that have had a gradient."""
        if self.parameters:
            self.parameters = {name: p for name, p in self.parameters.items() if not has_gradient(p)}

    def end_epoch(self) -> None:
        """Warn of those that had none in the whole epoch, once a run."""
        names, self.parameters = list(self.parameters), {}
        if names:
            warnings.warn(
                f"found no gradient of {len(names)} parameters in a whole epoch ({some_of(names)}): {self.objective!r} "
                "does not train them on these data",
                UserWarning,
                stacklevel=7,
            )
