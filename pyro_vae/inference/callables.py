"""Take any program that SVI takes as a module: a method, a function, a ``partial``, an annealed one of these.

What trains, saves and moves a program has to reach its networks. A module holds its own. Of any other callable the
networks are those that :func:`~pyro_vae.runtime.modules.named_owners` finds, and :class:`ProgramModule` makes them its
children.
"""

from __future__ import annotations

from torch import nn

from pyro_vae.inference.annealing import Annealed, bare
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.missing import ObservedOnly
from pyro_vae.runtime.modules import named_owners

__all__ = ["ProgramModule", "as_modules", "innermost"]


class ProgramModule(nn.Module):
    """A callable as a module, whose children are the modules that the callable uses."""

    def __init__(self, program: StochasticFunction) -> None:
        super().__init__()
        self.__dict__["forward"] = program  # whose signature this one's is
        self._modules.update(named_owners(program))  # a global may have any name, one of a method of this class too
        self._trained = tuple(self.children())

    def hold(self, trained: set[int]) -> None:
        """Leave alone, from now on, the modes of children without any of the parameters of these ids."""
        self._trained = tuple(child for child in self.children() if any(id(p) in trained for p in child.parameters()))

    def train(self, mode: bool = True) -> ProgramModule:
        """Set the mode of the children that are trained."""
        self.training = mode
        for child in self._trained:
            child.train(mode)
        return self


def innermost(program: StochasticFunction) -> StochasticFunction:
    """Return the program without what is wrapped around it, annealing and the mask of what is observed."""
    program = bare(program)
    return program.program if isinstance(program, ObservedOnly) else program


def as_modules(model: StochasticFunction, guide: StochasticFunction) -> tuple[nn.Module, nn.Module]:
    """Return a pair as modules: one that is a module already as it is, any other as a :class:`ProgramModule`.

    Raises
    ------
    ValueError
        If one half is annealed.
    """
    if isinstance(model, Annealed) != isinstance(guide, Annealed):
        raise ValueError("model, guide: found one of the two annealed, expected both halves that anneal_kl returned")
    whole = _whole(guide)
    guide_module = _made_module(guide) if whole is None else whole
    whole = _whole(model)
    if whole is not None and (guide_module is guide or not isinstance(model, Annealed)):
        return whole, guide_module
    return _made_module(model, guide_module), guide_module


def _whole(program: StochasticFunction) -> nn.Module | None:
    """Return a program that is a module, as is what it is wrapped around; ``None`` for another one."""
    return program if isinstance(program, nn.Module) and isinstance(innermost(program), nn.Module) else None


def _made_module(program: StochasticFunction, guide: StochasticFunction | None = None) -> nn.Module:
    """Return a module for a program; for a model that is annealed, beside the guide that is annealed with it."""
    if (whole := _whole(program)) is not None and not isinstance(program, Annealed):
        return whole
    if isinstance(program, Annealed):
        inner = _made_module(program.program, guide.program if isinstance(guide, Annealed) else None)
        annealed = Annealed(inner, *program._held, program.sites)
        annealed.guide = (guide,) if program.guide and isinstance(guide, Annealed) else program.guide
        return annealed
    if isinstance(program, ObservedOnly):
        return ObservedOnly(_made_module(program.program))
    return ProgramModule(program)
