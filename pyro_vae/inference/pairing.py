"""What makes two programs a pair, checked on one run: the same latents, in one data plate, of shapes that fit."""

from __future__ import annotations

import torch

from pyro_vae.errors import ProgramError
from pyro_vae.inference.traces import PairTrace, Site

__all__ = ["check_pair"]

_UNSIZED = -1  # what Pyro calls the size of a plate that was given none


def check_pair(pair: PairTrace, enumerated: bool) -> None:
    """Raise ``ProgramError`` if two programs do not form a pair; ``enumerated`` as in ``trace_pair``."""
    in_guide = {
        name
        for name, site in pair.guide_sites.items()
        if not site["is_observed"] and not site["infer"].get("is_auxiliary")
    }
    in_model = {  # a latent that the guide draws is marked for enumeration in the model too, where it is replayed
        name for name in pair.latents if name in in_guide or not (enumerated and _is_enumerated(pair.model_sites[name]))
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
    for program, sites in (("guide", pair.guide_sites), ("model", pair.model_sites)):  # the model replays the guide
        for name, site in sites.items():
            plates = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
            sizes = [frame.size for frame in plates if frame.dim == pair.data_dim]
            if not sizes:
                raise ProgramError(
                    f"site {name!r}: found outside the data plate of the {program}, expected inside "
                    'pyro.plate("data", len(x), dim=-1)'
                )
            if sizes[0] not in (pair.num_data, _UNSIZED):
                raise ProgramError(
                    f"site {name!r}: found in a data plate of size {sizes[0]} in the {program}, expected one of size "
                    f"len(x) = {pair.num_data}"
                )
            _check_shape(pair, site, program)
    if not pair.observed:
        raise ProgramError("found no observed site in the model, expected one such as pyro.sample('x', ..., obs=x)")


def _check_shape(pair: PairTrace, site: Site, program: str) -> None:
    """Each dimension of a site's log-probability belongs to a plate; those of one datum belong to its event."""
    plates = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    for dim, frame in plates.items():
        if -dim > pair.max_plate_nesting + (pair.num_particles > 1):
            raise ProgramError(
                f"site {site['name']!r}: found in the plate {frame.name!r} at dim={dim} of the {program}, expected "
                f"max_plate_nesting (now {pair.max_plate_nesting}) to count all of the program's own plates"
            )
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
    if plates[pair.data_dim].size == _UNSIZED and (
        len(shape) < -pair.data_dim or shape[pair.data_dim] != pair.num_data
    ):
        raise ProgramError(
            f"site {site['name']!r}: found a log-probability of shape {tuple(shape)} in a data plate without a size in "
            f'the {program}, expected one for each of {pair.num_data} data, or pyro.plate("data", len(x), dim=-1)'
        )
    if any(size != 1 and dim - len(shape) not in plates for dim, size in enumerate(shape)):
        raise ProgramError(
            f"site {site['name']!r}: found a log-probability of shape {tuple(shape)} in the {program}, expected "
            f"dimensions of plates alone, here {sorted(plates)}; declare those of one datum with .to_event(n)"
        )


def _is_enumerated(site: Site) -> bool:
    return site["infer"].get("enumerate") is not None
