r"""Log importance weights by plain Pyro, one run of the programs for each particle.

.. math:: \log w_b = \sum_{s \in \mathrm{data}} \log p_s - \log q_s, \qquad
          \log w = \sum_{s \notin \mathrm{data}} \log p_s - \log q_s

The first sum holds the sites inside the data's plate, the second the global ones. Scales are left out, masks count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from program import Call, Program
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = [
    "Estimates",
    "Weights",
    "common_scale",
    "estimate",
    "evaluating",
    "global_means",
    "is_reparameterised",
    "mean_bound",
    "run",
    "weigh",
]


class Weights(NamedTuple):
    """The log weights of the data, ``(B,)``, and the part of the global sites, a scalar."""

    local: Tensor
    shared: Tensor


class Estimates(NamedTuple):
    """Estimates of log p(x) of N data and their standard errors."""

    values: Tensor
    std_error: Tensor


@contextmanager
def evaluating(program: Program) -> Iterator[None]:
    """Run the networks in eval mode."""
    if program.module is None:
        yield
        return
    modes = {module: module.training for module in program.module.modules()}
    program.module.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def sites(trace: poutine.Trace) -> dict[str, Any]:
    """Return the sites of a trace that have a density."""
    nodes: dict[str, Any] = trace.nodes
    return {name: site for name, site in nodes.items() if site["type"] == "sample" and not site_is_subsample(site)}


def is_shared(site: Any, plate: str) -> bool:
    """Return whether a site lies outside the data's plate."""
    return all(frame.name != plate for frame in site["cond_indep_stack"])


def run(program: Program, call: Call, values: Mapping[str, Tensor] | None = None) -> tuple[Any, Any]:
    """Return the traces of the model and of the guide, of latents that are drawn or given."""
    guide_trace = call(poutine.trace(program.guide).get_trace)
    if values is not None:
        for name, value in values.items():
            guide_trace.nodes[name]["value"] = value
        guide_trace = call(poutine.trace(poutine.replay(program.guide, trace=guide_trace)).get_trace)
    model_trace = call(poutine.trace(poutine.replay(program.model, trace=guide_trace)).get_trace)
    return model_trace, guide_trace


def is_reparameterised(program: Program) -> bool:
    """Return whether all latents have gradients through their draws."""
    _, guide_trace = run(program, program.calls[0])
    return all(site["fn"].has_rsample for site in sites(guide_trace).values() if not site["is_observed"])


def common_scale(model_trace: Any) -> float:
    """Return the scale of the first observed site."""
    return float(next(site["scale"] for site in sites(model_trace).values() if site["is_observed"]))


def _weights_of(model_trace: Any, guide_trace: Any, plate: str, factors: bool) -> Weights:
    """Return the log weights of one run; ``factors`` of the guide are parts of a loss, but of no density q(z|x)."""
    local, shared = torch.zeros(()), torch.zeros(())
    for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
        trace.compute_log_prob()
        for site in sites(trace).values():
            if sign < 0 and site["is_observed"] and not factors:
                continue
            log_prob = scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])
            if is_shared(site, plate):
                shared = shared + sign * log_prob.sum()
            else:
                local = local + sign * log_prob.reshape(-1, log_prob.shape[-1]).sum(0)
    return Weights(local, shared)


@torch.no_grad()
def weigh(program: Program, call: Call, values: Mapping[str, Tensor] | None = None, *, factors: bool = True) -> Weights:
    """Return the log weights of one particle of each datum of a batch, on latents that are drawn or given."""
    return _weights_of(*run(program, call, values), program.plate, factors)


@torch.no_grad()
def mean_bound(
    program: Program, seeds: Sequence[int] = range(20), *, train: bool = False, factors: bool = True
) -> float:
    """Return the ELBO per datum, the mean of runs on some seeds; in eval mode or as the networks are."""
    total, num_data = 0.0, 0
    with nullcontext() if train else evaluating(program):
        for seed in seeds:
            pyro.set_rng_seed(seed)
            for call in program.calls:
                weights = weigh(program, call, factors=factors)
                total += (weights.local.sum() + weights.shared / len(program.calls)).item()
                num_data += len(weights.local)
    return total / num_data


@torch.no_grad()
def global_means(program: Program) -> Program:
    """Return the pair with the global latents held at the means of the guide."""
    _, guide_trace = run(program, program.calls[0])
    means = {
        name: site["fn"].mean
        for name, site in sites(guide_trace).items()
        if is_shared(site, program.plate) and not isinstance(_base(site["fn"]), dist.Delta)
    }

    def guide(*args: Any, **kwargs: Any) -> Any:
        return _Held(means)(program.guide)(*args, **kwargs)

    return replace(program, guide=guide)


def _base(fn: Any) -> Any:
    while not isinstance(fn, dist.Delta) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


class _Held(poutine.messenger.Messenger):
    """Gives latents a value, and leaves them latent."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@torch.no_grad()
def estimate(program: Program, num_particles: int) -> Estimates:
    """Estimate log p(x) of every datum from so many runs, with its standard error by the delta method.

    A factor of the guide is left out: log p(x) does not depend on it.
    """
    parts = []
    with evaluating(program):
        for call in program.calls:
            log_w = torch.stack([weigh(program, call, factors=False).local for _ in range(num_particles)]).double()
            relative = (log_w - log_w.amax(0)).exp()
            values = log_w.logsumexp(0) - math.log(num_particles)
            parts.append((values, relative.std(0) / relative.mean(0) / math.sqrt(num_particles)))
    return Estimates(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
