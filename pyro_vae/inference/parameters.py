r"""Find the parameters of a pair by running it once, as SVI does in its first step.

SVI trains what the programs register: parameters of modules by ``pyro.module``, and tensors by ``pyro.param(name, init,
constraint=...)``. A bare parameter of this kind lives in Pyro's store, as a leaf tensor :math:`u` that is not
constrained. Programs are given :math:`t(u)`, where t is the transform to the constraint. :class:`StoreParams` holds
the leaves of a pair as a module, so that they are trained, moved and saved like the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.data.batch import Batch, call
from pyro_vae.errors import ProgramError
from pyro_vae.inference.constraints import constraint_from, described
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.isolation import OwnParameters, StoreState, kept_in_store
from pyro_vae.inference.sites import random_sites
from pyro_vae.inference.traces import PairTrace

__all__ = ["FirstRun", "StoreParams", "first_run", "params_for"]


class StoreParams(nn.Module):
    """Parameters of Pyro's store as a module: the store's own leaf tensors, by their names there.

    >>> x = pyro.param("x", torch.ones(2), constraint=pyro.distributions.constraints.positive)
    >>> params = StoreParams(kept_in_store())
    >>> params.descriptions(), params.state_dict()["x"]  # the unconstrained value
    ({'x': 'positive'}, tensor([0., 0.]))
    """

    def __init__(self, state: StoreState) -> None:
        super().__init__()
        self._parameters.update(sorted(state["params"].items()))  # leaves as they are; their names may have dots
        self.constraints = {name: state["constraints"][name] for name in self._parameters}

    def __len__(self) -> int:
        return len(self._parameters)

    def descriptions(self) -> dict[str, Any]:
        """Return the constraint of each, as plain data."""
        return {name: described(constraint) for name, constraint in self.constraints.items()}

    def put_in_store(self) -> None:
        """Let the store have those that it does not have."""
        params = {name: value for name, value in self._parameters.items() if name not in pyro.get_param_store()}
        constraints = {name: self.constraints[name] for name in params}
        store: Any = pyro.get_param_store()
        store.set_state({"params": params, "constraints": constraints})

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        """Copy the values. Torch's own method takes a dot in a name for the end of a module's."""
        with torch.no_grad():
            for name, value in self.named_parameters():
                value.copy_(state_dict[prefix + name])


def params_for(
    descriptions: Any, values: Mapping[str, Tensor], device: torch.device | None, source: object
) -> StoreParams:
    """Return what the store has of the bare parameters in a file, and new ones for those that it does not have.

    Parameters
    ----------
    descriptions
        Their constraints, by name, as :meth:`StoreParams.descriptions` returned them.
    values
        Tensors of the form of their unconstrained values.
    device
        Where new ones lie.
    source
        The file, for messages.

    Raises
    ------
    ValueError
        If a constraint is not that of the store, or is not known here.
    """
    if not isinstance(descriptions, dict) or not descriptions.keys() <= values.keys():
        raise ValueError(f"{source}: found {str(descriptions)[:100]}, expected the constraints of its parameters")
    kept = kept_in_store()
    state: StoreState = {"params": {}, "constraints": {}}
    for name, description in descriptions.items():
        found = f"{source}: leaf {f'params.{name}'!r}: found the constraint {description}"
        constraint = kept["constraints"].get(name)
        if constraint is not None and described(constraint) != description:
            raise ValueError(f"{found}, expected {described(constraint)} as in Pyro's parameter store")
        constraint = constraint_from(description) if constraint is None else constraint
        if constraint is None:
            raise ValueError(f"{found}, which is not known, expected a program that has been run before by SVI or fit")
        new = torch.empty_like(values[name], device=device).requires_grad_()
        state["params"][name], state["constraints"][name] = kept["params"].get(name, new), constraint
    return StoreParams(state)


class FirstRun(NamedTuple):
    """What a run of a pair left behind: the traces, the states of its store after the run and before, and len(x)."""

    guide_trace: poutine.Trace
    model_trace: poutine.Trace
    state: StoreState
    before: StoreState
    length: int

    @property
    def pair(self) -> PairTrace:
        """The run as one of a pair."""
        return PairTrace(self.model_trace, self.guide_trace, self.guide_trace, 1, self.length)

    @property
    def registered(self) -> set[int]:
        """The ids of what SVI would train."""
        traces = (self.guide_trace, self.model_trace)
        return {id(leaf_of(trace.nodes[name]["value"])) for trace in traces for name in trace.param_nodes}

    def bare(self) -> StoreParams:
        """Return what the pair keeps in the store."""
        names = [name for name, value in self.state["params"].items() if not isinstance(value, nn.Parameter)]
        used = {*self.model_trace.param_nodes, *self.guide_trace.param_nodes}
        names = [name for name in names if name in used or name not in self.before["params"]]
        return StoreParams({kind: {name: values[name] for name in names} for kind, values in self.state.items()})

    def shown(self) -> dict[str, Tensor]:
        """Return the parameters that were registered or declared, unconstrained, by name."""
        traced = {
            name: leaf_of(trace.nodes[name]["value"])
            for trace in (self.guide_trace, self.model_trace)
            for name in trace.param_nodes
        }
        return traced | {
            name: value for name, value in self.state["params"].items() if name not in self.before["params"]
        }

    def used_but_not_registered(self, parameters: Iterable[nn.Parameter]) -> set[int]:
        """Return the ids of those parameters that the densities depend on, though SVI does not train them."""
        others = [p for p in parameters if p.requires_grad and id(p) not in self.registered]
        if not others:
            return set()
        total: Any = self.guide_trace.log_prob_sum() + self.model_trace.log_prob_sum()
        if not isinstance(total, Tensor) or not total.requires_grad:
            return set()
        gradients = torch.autograd.grad(total, others, allow_unused=True)
        return {id(p) for p, gradient in zip(others, gradients, strict=True) if gradient is not None}

    def latents_by_datum(self, num_data: int) -> set[str]:
        """Return the names of latents with a draw for each of ``num_data`` data, those that an observation hangs on."""
        sites = random_sites(self.model_trace)
        plates = {
            frame.name
            for site in sites.values()
            if site["is_observed"]
            for frame in site["cond_indep_stack"]
            if frame.vectorized and num_data in (frame.size, frame.full_size)
        }
        return {
            name
            for name, site in sites.items()
            if not site["is_observed"] and any(frame.name in plates for frame in site["cond_indep_stack"])
        }


class _Watched(Messenger):
    """Move what the store gives to a device, and refuse a second constraint for a name that has one."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def _pyro_post_param(self, msg: Any) -> None:
        store, name = pyro.get_param_store(), msg["args"][0]
        leaf = store._params.get(name)  # get_state() takes off the marks by which Pyro finds it
        if leaf is None or isinstance(leaf, nn.Parameter):
            return
        constraint = msg["kwargs"].get("constraint")
        is_real = constraint is not None and described(constraint) == "real"
        if len(msg["args"]) > 1 and isinstance(msg["args"][1], nn.Parameter) and is_real:
            raise ProgramError(
                f"parameter {name!r}: found another value in Pyro's parameter store than in the program, expected "
                "pyro.clear_param_store() before"
            )
        found = store._constraints[name]
        if len(msg["args"]) > 1 and described(constraint) != described(found):
            raise ProgramError(
                f"parameter {name!r}: found the constraint {described(found)} in Pyro's parameter store, expected "
                f"{described(constraint)} as in the program; pyro.clear_param_store() forgets what is there"
            )
        if leaf.device != self.device:
            leaf.data = leaf.data.to(self.device)
            msg["value"] = store[name]


def first_run(model: StochasticFunction, guide: StochasticFunction, x: Batch, device: torch.device) -> FirstRun:
    """Run the guide, and the model on its draws, in a store that begins with what the caller's keeps."""
    store = pyro.get_param_store()
    before = kept_in_store()
    scope: Any = {kind: dict(values) for kind, values in before.items()}
    try:
        with store.scope(scope), torch.enable_grad(), _Watched(device), OwnParameters():
            guide_trace = call(poutine.trace(guide).get_trace, x)
            model_trace = call(poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace, x)
    finally:
        for name in list(store):
            store[name]  # marks it again for SVI
    return FirstRun(guide_trace, model_trace, scope, before, len(x))


def leaf_of(value: Any) -> Any:
    """Return the unconstrained tensor of a parameter as ``pyro.param`` returns it."""
    return value.unconstrained() if hasattr(value, "unconstrained") else value
