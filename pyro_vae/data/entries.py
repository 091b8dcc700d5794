r"""Which entries of a loader's batch the programs are called with: all of them, or the first alone.

Pyro hands on whatever it is given, and so does this package where both programs can be called with it,

.. math:: (x, y) \to \texttt{model(x, y)}, \qquad \{\texttt{x}: x, \texttt{y}: y\} \to \texttt{model(x=x, y=y)} .

Many data sets come with labels that a program of one argument has no use for. Such a program is called with the first
entry, and one warning says that the others are left out.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_vae.data.arrays import check_whole, kind_of
from pyro_vae.data.batch import Arguments, Batch

__all__ = ["Entries", "signature_of", "takes"]

_NAMES = ("model", "guide")
_ONE = inspect.Signature([inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD)])


class Entries:
    """Takes the batches of a loader to those that some programs are called with.

    Parameters
    ----------
    programs
        The model and the guide. With none, batches are of one argument.
    name
        What messages call the data.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.zeros(5, 2), torch.arange(5)
    >>> Entries([lambda x, y: None, lambda x, y=None: None]).batch_of([x, y])
    Arguments((5, 2), (5,))
    >>> Entries([lambda x, y: None, lambda x, y=None: None]).batch_of({"x": x, "y": y})
    Arguments(x=(5, 2), y=(5,))
    """

    def __init__(self, programs: Sequence[Callable[..., Any]] = (), name: str = "data") -> None:
        self.programs, self.name = tuple(programs), name
        self._all: dict[Any, bool] = {}  # whether all entries are used, by their number and names

    def batch_of(self, found: Any) -> Batch:
        """Return the tensor or the arguments in a batch of a loader.

        Raises
        ------
        TypeError
            For a batch without a tensor.
        ValueError
            If the programs can be called neither with all entries nor with the first.
        """
        if isinstance(found, Tensor):
            check_whole(found, "data")
            return found
        batch = self.chosen(_arguments_in(found))
        for tensor in batch.tensors:
            check_whole(tensor, "data")
        if batch.kwargs or len(batch.args) > 1:
            if not batch.tensors:
                raise TypeError(f"batch: found ({batch}), expected one tensor or more, with the data first")
            return batch
        if not isinstance(batch.args[0], Tensor):
            raise _refused(batch.args[0])
        return batch.args[0]

    def chosen(self, entries: Arguments) -> Arguments:
        """Return those of some entries that the programs are called with."""
        if len(entries.args) == 1 and not entries.kwargs:
            return entries
        key = (len(entries.args), tuple(entries.kwargs))
        if key not in self._all:
            self._all[key] = self._uses_all(entries)
        return entries if self._all[key] else _first_of(entries)

    def _uses_all(self, entries: Arguments) -> bool:
        """Return whether the programs take all entries, and warn if they take the first alone."""
        if self.programs and all(takes(program, entries) for program in self.programs):
            return True
        if not self.programs and entries.kwargs:
            raise _refused(entries.kwargs)
        number, signatures = len(entries.values), " and ".join(map(_shown, _NAMES, self.programs))
        names = f" ({', '.join(entries.kwargs)})" if entries.kwargs else ""
        if not all(takes(program, _first_of(entries)) for program in self.programs):
            raise ValueError(
                f"{self.name}: found batches of {number} entries{names}, expected those that the programs take: "
                f"{signatures}"
            )
        why = f"{signatures} do not take them all, so" if self.programs else "Here"
        warnings.warn(
            f"{self.name}: found batches of {number} entries{names}, expected one. {why} the first entry is used and "
            "the rest (labels?) is left out. To be rid of this warning, let the data set return x alone, or the "
            "programs take the rest too",
            UserWarning,
            stacklevel=2,
        )
        return False


def takes(program: Callable[..., Any], batch: Arguments) -> bool:
    """Return whether a program can be called with some arguments, as far as its signature tells.

    An entry without a name is no option of the program: it does not go to an argument with a default, but for ``None``.

    >>> takes(lambda x, y=None: None, Arguments(1, 2)), takes(lambda x, beta=1.0: None, Arguments(1, 2))
    (True, False)
    """
    signature = signature_of(program)
    try:
        signature.bind(*batch.args, **batch.kwargs)
    except TypeError:
        return False
    given = list(signature.parameters.values())[: len(batch.args)]
    return all(each.default is each.empty or each.default is None for each in given)


def signature_of(program: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a program: of a module's forward, and of what a handler or another wrapper calls.

    A program that does not tell is taken to have one argument.
    """
    try:
        found = inspect.signature(program.forward if isinstance(program, nn.Module) else program)
    except (TypeError, ValueError):
        return _ONE
    hands_on = all(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in found.parameters.values())
    inner = _inside(program) if hands_on and found.parameters else None
    return found if inner is None else signature_of(inner)


def _inside(program: Any) -> Callable[..., Any] | None:
    """Return what a wrapper calls, ``None`` if that is not known."""
    if (wrapped := getattr(program, "__wrapped__", None)) is not None:
        return wrapped
    if isinstance(program, functools.partial):  # Pyro's handlers too, with the program as their last argument
        return next(filter(callable, reversed(program.args)), program.func)
    return None


def _shown(name: str, program: Callable[..., Any]) -> str:
    found = signature_of(program)
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    return f"{name}{found.replace(parameters=plain, return_annotation=inspect.Signature.empty)}"


def _arguments_in(found: Any) -> Arguments:
    if isinstance(found, Mapping) and found and all(isinstance(name, str) for name in found):
        return Arguments(**found)
    if isinstance(found, (tuple, list)) and found:
        return Arguments(*found)
    raise _refused(found)


def _first_of(entries: Arguments) -> Arguments:
    if entries.args:
        return Arguments(entries.args[0])
    return Arguments(**dict(list(entries.kwargs.items())[:1]))


def _refused(found: Any) -> TypeError:
    return TypeError(f"batch: found {kind_of(found)}, expected a tensor, or a tuple or list that starts with one")
