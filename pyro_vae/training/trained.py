"""Find what a run trains, before it begins.

A pair of modules trains their parameters. Of another program, such as a function, it is what SVI trains: what the
program registers when it is run, by ``pyro.module`` or ``pyro.param``. An AutoGuide makes its parameters when it is run
for the first time. So the pair is run once on the first batch. Every parameter that it then shows is trained or named
in an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide, AutoGuideList
from torch import nn
from torch.utils.data import IterableDataset, SequentialSampler

from pyro_vae.data.batches import Batches
from pyro_vae.errors import ProgramError, failing_on
from pyro_vae.inference.callables import ProgramModule, innermost
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.parameters import FirstRun, StoreParams, first_run
from pyro_vae.inference.subsampling import around_batches, as_it_is
from pyro_vae.objectives import Objective
from pyro_vae.runtime.modules import dtype_of, placement
from pyro_vae.runtime.state import evaluating, generators, seeded, set_generators
from pyro_vae.training.modules import as_module
from pyro_vae.training.untrained import some_of

__all__ = ["Trained", "find_trained", "placed"]


def placed(module: nn.Module, data: Any, device: Any) -> tuple[torch.device, torch.dtype]:
    """Move a pair to a device, unless that is ``None``, and return the device and the dtype to train on.

    Those are the module's. For one without numbers, they are that device, or the CPU, and the dtype of the data.
    """
    if device is not None:
        module.to(device)
    if any(tensor.is_floating_point() for tensor in (*module.parameters(), *module.buffers())):
        return placement(module)
    device = torch.empty(0, device="cpu" if device is None else device).device  # "cuda" becomes "cuda:0"
    return device, dtype_of(data)


class Trained:
    """The pair as one module, with what it keeps in Pyro's store, those of its parameters to train, and batches."""

    def __init__(self, model: nn.Module, guide: nn.Module, batches: Batches, run: FirstRun | None) -> None:
        self.batches = batches
        self.params = StoreParams({"params": {}, "constraints": {}}) if run is None else run.bare()
        self.module = as_module((model, guide), self.params)
        self.around = as_it_is if run is None else around_batches(run.pair, batches.num_data)
        self.registered = set() if run is None else run.registered
        for half in (model, guide):
            if not isinstance(innermost(half), ProgramModule):
                self.registered |= set(map(id, half.parameters()))
        self.parameters = [p for p in self.module.parameters() if p.requires_grad and id(p) in self.registered]
        for inner in map(innermost, (model, guide)):
            if isinstance(inner, ProgramModule):
                inner.hold(set(map(id, self.parameters)))

    def names(self, ids: set[int]) -> list[str]:
        """Return the names of parameters."""
        return [name for name, parameter in self.module.named_parameters() if id(parameter) in ids]


def find_trained(
    model: nn.Module,
    guide: nn.Module,
    objective: Any,
    batches: Batches,
    valid: Batches | None,
    seed: int | None,
    resumed: bool,
    check: Callable[[], None],
) -> Trained:
    """Run a pair once on the first batch, in eval mode, and return what of it is to be trained, on which batches.

    What it declares by a bare ``pyro.param`` is left in the caller's parameter store, where it is trained. ``check`` is
    called with that in place; where it raises, or the run does, the store is left as it was.

    Raises
    ------
    ProgramError
        For a parameter that nothing would train; for a latent of each datum in a guide that every batch would share.
    ValueError
        If the programs fail, or have nothing to train.
    """
    is_stream = isinstance(getattr(batches._source, "dataset", None), IterableDataset)
    if resumed and is_stream and not _is_open(model, guide):  # asking for the first batch may use it up
        check()
        return _checked(Trained(model, guide, batches, None))
    device = batches.device
    with seeded(seed, device):
        x = batches.first()
    if x is None:
        check()
    assert x is not None
    before, known = generators(device), set(pyro.get_param_store())
    owned = {id(parameter) for half in (model, guide) for parameter in half.parameters()}
    try:
        with failing_on("data", x), seeded(seed, device), evaluating(model, guide):
            run = first_run(*_as_run(model, guide, objective), x, device)
    except (ValueError, IndexError, KeyError):
        check()  # which may know better what is wrong
        raise
    if batches.ranks.size > 1 and run.pair.plate.dim is None:
        raise ProgramError(
            f"found programs without a plate of the data, which are one datum as a whole, and {batches.ranks.size} "
            'ranks that share the data, expected pyro.plate("data", len(x)) around what belongs to single data'
        )
    local = _local_latents(run, guide, len(x))
    trained = Trained(model, guide, _with_fixed_data(local, batches, valid, len(x)) if local else batches, run)
    if not trained.params and owned >= {id(p) for half in (model, guide) for p in half.parameters()}:
        set_generators(before, device)  # nothing was begun with these draws
    _check_params(run, trained)
    _warn_of_unregistered(run, trained)
    trained.params.put_in_store()
    try:
        check()
        return _checked(trained)
    except Exception:
        for name in set(trained.params.constraints) - known:
            del pyro.get_param_store()[name]
        raise


def _as_run(model: nn.Module, guide: nn.Module, objective: Any) -> tuple[StochasticFunction, StochasticFunction]:
    """Return the pair as an objective of this package runs it, where that is not as it stands."""
    if not isinstance(objective, Objective):
        return model, guide
    programs = objective.programs_to_check(objective.pair_of(model, guide))
    return programs.model, programs.guide


def _is_open(*programs: nn.Module) -> bool:
    """Return whether it takes a run to know the parameters of programs."""
    parts = [part for program in programs for part in (innermost(program), *program.modules())]
    return any(isinstance(part, ProgramModule) or getattr(part, "prototype_trace", part) is None for part in parts)


def _checked(trained: Trained) -> Trained:
    if not trained.parameters:
        raise ValueError(
            "model, guide: found no parameter to train, expected modules with parameters, or programs that register "
            "theirs by pyro.module or pyro.param"
        )
    return trained


def _check_params(run: FirstRun, trained: Trained) -> None:
    """Every parameter that a run shows is one of the module's."""
    owned = {id(parameter) for parameter in trained.module.parameters()}
    shared = run.before["params"].keys() & {n for n, p in run.state["params"].items() if isinstance(p, nn.Parameter)}
    for name in sorted(shared):
        raise ProgramError(
            f"parameter {name!r}: found in a module and in Pyro's parameter store as a bare pyro.param, expected two "
            "names; pyro.clear_param_store() forgets what is in the store"
        )
    for name, value in run.shown().items():
        if value.requires_grad and id(value) not in owned:
            raise ProgramError(
                f"parameter {name.replace('$$$', '.')!r}: found an nn.Parameter of no module within reach of the "
                "program, expected its module among the attributes of the program or of its object, its arguments, or "
                "the variables that it uses; or a tensor in a bare pyro.param"
            )


def _local_latents(run: FirstRun, guide: nn.Module, num_data: int) -> dict[str, str]:
    """Return the latents of each datum that an AutoGuide has parameters for, with the names of its class."""
    local, found = run.latents_by_datum(num_data), {}
    for part in guide.modules():
        trace = getattr(part, "prototype_trace", None)
        if trace is None or isinstance(part, AutoGuideList):  # whose parts have the parameters
            continue
        for name in trace.stochastic_nodes:
            if name in local and (isinstance(part, AutoGuide) or f"{name}_unconstrained" in part._parameters):
                found[name] = type(part).__name__
    return found


def _with_fixed_data(local: dict[str, str], batches: Batches, valid: Batches | None, num_data: int) -> Batches:
    """Return batches that are all of the data, in their order, for a guide with parameters for each datum."""
    name, kind = next(iter(local.items()))
    if batches.ranks.size > 1:
        raise ProgramError(
            f"site {name!r}: found a latent of each datum in {kind}, with {batches.ranks.size} ranks that share the "
            "data; expected one process, or a guide that takes them from the data"
        )
    found = f"site {name!r}: found a latent of each datum in {kind}, which learns {num_data} of them"
    if batches.num_data not in (None, num_data):
        raise ProgramError(
            f"{found} for all batches of {batches.num_data} data; expected batch_size={batches.num_data}, or a guide "
            "that takes them from the data"
        )
    if valid is not None:
        raise ProgramError(f"{found}, and none for validation data; expected none, or a guide that takes x to them")
    if batches.resident:
        return batches.in_order()
    if not isinstance(getattr(batches._source, "sampler", None), SequentialSampler):
        raise ProgramError(f"{found} by their place; expected a DataLoader that does not shuffle the data")
    return batches


def _warn_of_unregistered(run: FirstRun, trained: Trained) -> None:
    others = [p for p in trained.module.parameters() if id(p) not in trained.registered]
    names = trained.names(run.used_but_not_registered(others))
    if names:
        warnings.warn(
            f"found {len(names)} parameters that the programs use and do not register ({some_of(names)}): like SVI, "
            "fit does not train them, expected pyro.module in the program, or requires_grad_(False)",
            UserWarning,
            stacklevel=5,
        )
