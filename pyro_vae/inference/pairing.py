"""What makes two programs a pair, checked on one run: the same latents, in one data plate, of shapes that fit."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch._guards import detect_fake_mode

from pyro_vae.data.batch import Batch, call
from pyro_vae.errors import ProgramError, no_distribution, pyro_error_reason
from pyro_vae.inference.annealing import bare
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.plates import PARTICLES, UNSIZED, plates_of
from pyro_vae.inference.sites import Site, mask_of, random_sites
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.state import seeded

__all__ = ["check_batched", "check_pair", "misfit_of_latents"]


def check_batched(model: StochasticFunction, x: Any, name: str) -> None:
    """Raise ``ValueError`` for a single datum in the place of a batch, where a packaged model knows their shape."""
    shape = getattr(getattr(bare(model), "likelihood", None), "data_shape", None)
    if shape is not None and isinstance(x, Tensor) and tuple(x.shape) == tuple(shape):
        batch = ", ".join(map(str, ("N", *shape)))
        raise ValueError(f"{name}: found a single datum of shape {tuple(x.shape)}, expected ({batch}), as x[None] has")


@torch.no_grad()
def misfit_of_latents(programs: ProgramPair, x: Batch) -> str | None:
    """Say what is wrong with the sizes of latents in programs that failed together, ``None`` if that is not why.

    Each program is run by itself; no generator is moved.
    """
    copied = programs.with_copied_buffers()
    with seeded(0, x.device), poutine.trace() as drawn:
        try:
            call(copied.guide, x)
        except Exception:  # the guide itself fails
            return None
    with seeded(0, x.device), poutine.trace() as own:
        failed = None
        try:
            call(copied.model, x)
        except ProgramError:  # which says what is wrong
            return None
        except Exception as error:  # a program can raise anything
            failed = pyro_error_reason(error)
    guide, model = random_sites(drawn.trace), random_sites(own.trace)
    names = [name for name in guide if name in model]
    shapes = {name: [tuple(sites[name]["fn"].event_shape) for sites in (guide, model)] for name in names}
    for name, (in_guide, in_model) in shapes.items():
        if in_guide != in_model and len(in_guide) == len(in_model):
            return (
                f"site {name!r}: found a latent of shape {in_guide} in the guide and of shape {in_model} in the model, "
                "expected the same shape in both"
            )
    if failed is not None and shapes and "plate" not in failed:
        given = ", ".join(f"{name!r} of shape {in_model}" for name, (_, in_model) in shapes.items())
        return f"found a model that fails on its own latents, {given}: {failed}"
    return None


def check_pair(pair: PairTrace, enumerated: bool) -> None:
    """Raise ``ProgramError`` if two programs do not form a pair; ``enumerated`` as in ``trace_pair``."""
    _check_guide(pair)
    in_guide = {
        name
        for name, site in pair.guide_sites.items()
        if not site["is_observed"] and not site["infer"].get("is_auxiliary")
    }
    latents = [name for name, site in pair.model_sites.items() if not site["is_observed"]]
    in_model = {  # a latent that the guide draws is marked for enumeration in the model too, where it is replayed
        name for name in latents if name in in_guide or not (enumerated and _is_enumerated(pair.model_sites[name]))
    }
    for name in sorted(in_guide - in_model):
        what = "observes it" if name in pair.model_sites else f"has the latent sites {sorted(in_model)}"
        raise ProgramError(
            f"site {name!r}: found in the guide, but the model {what}; expected the same latents in both"
        )
    for name in sorted(in_model - in_guide):
        raise ProgramError(
            f"site {name!r}: found in the model, but the guide has the latent sites {sorted(in_guide)}; expected the "
            "same latents in both"
        )
    for name in sorted(in_guide & in_model):
        guide_site, model_site = pair.guide_sites[name], pair.model_sites[name]
        if pair.plate.holds(guide_site) != pair.plate.holds(model_site):
            outside, inside = ("guide", "model") if pair.plate.holds(model_site) else ("model", "guide")
            raise ProgramError(
                f"site {name!r}: found outside the data plate of the {outside}, but inside that of the {inside}, "
                'expected both inside pyro.plate("data", len(x), dim=-1), or both outside'
            )
    for program, sites in (("guide", pair.guide_sites), ("model", pair.model_sites)):  # the model replays the guide
        for site in sites.values():
            if pair.plate.dim is not None and pair.plate.holds(site):
                _check_size(pair, site, program)
            _check_shape(pair, site, program)
    for name in sorted(in_guide & in_model):
        _check_masks(name, pair.guide_sites[name], pair.model_sites[name])


def _check_masks(name: str, in_guide: Site, in_model: Site) -> None:
    """A latent counts in both programs or in none: log p alone, or log q alone, is in no bound."""
    masks = mask_of(in_guide), mask_of(in_model)
    if masks[0] is masks[1] or detect_fake_mode() is not None:  # without values; the programs were checked with them
        return
    first, second = (torch.as_tensor(mask, device=in_model["value"].device) for mask in masks)
    places = [(mask.data_ptr(), mask.shape, mask.stride()) for mask in (first, second)]
    if places[0] != places[1] and not torch.equal(*torch.broadcast_tensors(first, second)):
        raise ProgramError(
            f"site {name!r}: found masked otherwise in the guide than in the model, expected the same poutine.mask "
            "around both, since what one of them leaves out would count in the other alone; latents of obs_mask=seen "
            "are masked by ~seen"
        )


def _check_guide(pair: PairTrace) -> None:
    """What a guide observes says how it is differentiated; where Pyro validates, its plates are the model's."""
    for name, site in pair.guide_sites.items():
        if site["is_observed"] and isinstance(site["fn"], Unit) and "has_rsample" not in vars(site["fn"]):
            raise ProgramError(
                f"site {name!r}: found pyro.factor in the guide, missing specification of has_rsample, expected "
                "pyro.factor(..., has_rsample=True) or False"
            )
    if not is_validation_enabled():
        return
    plates = [
        {name for name, node in trace.nodes.items() if node["type"] == "sample" and site_is_subsample(node)}
        for trace in (pair.guide_trace, pair.model_trace)
    ]
    if extra := sorted(plates[0] - plates[1] - {PARTICLES}):
        raise ProgramError(
            f"Found plate statements in guide but not model: {extra}, expected the plates of the guide in the model too"
        )


def _check_size(pair: PairTrace, site: Site, program: str) -> None:
    """Both programs have as many data."""
    for frame in plates_of(site):
        if pair.plate.is_frame(frame) and frame.full_size not in (pair.plate.full_size, UNSIZED):
            raise ProgramError(
                f"site {site['name']!r}: found in a data plate of size {frame.full_size} in the {program}, expected "
                f"one of size len(x) = {pair.plate.full_size}"
            )


def _check_shape(pair: PairTrace, site: Site, program: str) -> None:
    """Each dimension of a site's log-probability belongs to a plate; those of one datum belong to its event."""
    if (reason := no_distribution(site["name"], site["fn"])) is not None:
        raise ProgramError(reason)
    plates = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    event_shape, value_shape = tuple(site["fn"].event_shape), tuple(site["value"].shape)
    num_batch_dims = len(value_shape) - len(event_shape)
    try:
        shape = torch.broadcast_shapes(site["fn"].batch_shape, value_shape[:num_batch_dims])
    except RuntimeError:
        shape = None
    if shape is None or num_batch_dims < 0 or value_shape[num_batch_dims:] != event_shape:
        raise ProgramError(
            f"site {site['name']!r}: found a value of shape {value_shape} in the {program}, expected one of a "
            f"distribution of batch shape {tuple(site['fn'].batch_shape)} and event shape {event_shape}"
        )
    frame = plates.get(pair.data_dim) if pair.plate.holds(site) and pair.plate.dim is not None else None
    if (
        frame is not None
        and frame.size == UNSIZED
        and (len(shape) < -pair.data_dim or shape[pair.data_dim] != pair.num_data)
    ):
        raise ProgramError(
            f"site {site['name']!r}: found a log-probability of shape {tuple(shape)} in a data plate without a size in "
            f'the {program}, expected one for each of {pair.num_data} data, or pyro.plate("data", len(x), dim=-1)'
        )
    if any(size != 1 and dim - len(shape) not in plates for dim, size in enumerate(shape)):
        raise ProgramError(
            f"site {site['name']!r}: found a log-probability of shape {tuple(shape)} in the {program}, expected "
            f"dimensions of plates alone, here {sorted(plates)}; declare those of one datum with .to_event(n)"
            + ", which distributions of pyro.distributions have"
            * (not hasattr(site["fn"], "to_event"))
        )


def _is_enumerated(site: Site) -> bool:
    return site["infer"].get("enumerate") is not None
