r"""Which plate holds the data, and the plate of particles beside it.

The data of a program are independent given its global latents W,

.. math:: p(x, z, W) = p(W) \prod_b p(z_b|W)\, p(x_b|z_b, W) ,

and the plate of the b's is the data plate. It is the one named ``"data"``. Where no plate has that name, it is the
first that there is of: one that all sites share, with as many members as there are data; one at ``dim=-1`` with as many
members; the rightmost one that all sites share. A program without any of these is one datum as a whole. Where two that
all sites share have as many members as there are data, the one of the data has to be named.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pyro.poutine.plate_messenger import PlateMessenger

from pyro_vae.errors import ProgramError

__all__ = [
    "PARTICLES",
    "UNSIZED",
    "DataPlate",
    "ParticlePlate",
    "check_other_size",
    "data_plate",
    "may_hold_data",
    "nesting_of",
    "plates_of",
]

PARTICLES = "num_particles_vectorized"  # Pyro's own name of the plate
UNSIZED = -1  # what Pyro calls the size of a plate that was given none


class DataPlate(NamedTuple):
    """The data plate of a program, with its ``name``, its dimension ``dim``, and the numbers of data.

    Of several that are one after the other the same plate, the name is that of the first. Without a plate, name and
    dimension are ``None``. ``size`` is B, the number of data in a run, and ``full_size`` N, the number of data that
    they are a subsample of.
    """

    name: str | None
    dim: int | None
    size: int
    full_size: int

    def holds(self, site: dict[str, Any]) -> bool:
        """Return whether a site is inside it, so that its log-probability belongs to single data."""
        return self.dim is None or any(
            frame.dim == self.dim and frame.name != PARTICLES and self.is_frame(frame)
            for frame in site["cond_indep_stack"]
        )

    def is_frame(self, frame: Any) -> bool:
        """Return whether a plate that Pyro has on its stack is this one, or another of the same data."""
        return frame.vectorized and frame.dim == self.dim and (frame.name == "data" or self.name != "data")


def plates_of(site: dict[str, Any]) -> list[Any]:
    """Return the vectorised plates that a site is in, without that of the particles."""
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES]


def nesting_of(sites: Iterable[dict[str, Any]]) -> int:
    """Return how many dimensions the plates of the sites take, the particles' left out."""
    return max((-frame.dim for site in sites for frame in plates_of(site)), default=0)


def may_hold_data(frame: Any, num_data: int) -> bool:
    """Return whether a plate can be the data's, as far as is known while a program runs."""
    if frame.name == "data":
        return True
    return frame.dim == -1 and num_data > 0 and (frame.size in (num_data, UNSIZED) or frame.full_size == num_data)


def data_plate(sites: list[dict[str, Any]], num_data: int) -> DataPlate:
    """Return the data plate of a program from the sites of a run.

    Parameters
    ----------
    sites
        The sites of both programs.
    num_data
        The length of what they were called with, 0 if that has none.

    Raises
    ------
    ProgramError
        If it cannot be told which of two plates is the data's.
    """
    frames = [frame for site in sites for frame in plates_of(site)]
    found = [frame for frame in frames if frame.name == "data"]
    if not found and frames:
        shared = _shared(sites)
        found = [frame for frame in shared if num_data in (frame.size, frame.full_size)]
        _refuse_other_dims(found, num_data)
        if not found:
            found = [frame for frame in frames if may_hold_data(frame, num_data)]
            _refuse_two(sites, found)
        found = found or shared[:1]
    fitting = [frame for frame in found if num_data in (frame.full_size, frame.size)]
    frame = next(iter(fitting or found), None)  # the one that others are held to
    if frame is None or (frame.size == UNSIZED and num_data == 0):
        return DataPlate(None, None, 1, 1)
    size = num_data if frame.size == UNSIZED else frame.size
    full_size = frame.full_size if frame.full_size not in (None, UNSIZED) else size
    return DataPlate(frame.name, frame.dim, int(size), int(full_size))


def _shared(sites: list[dict[str, Any]]) -> list[Any]:
    """Return the plates that all sites are in, the rightmost first."""
    keys = [{(frame.name, frame.dim) for frame in plates_of(site)} for site in sites]
    frames = [frame for site in sites for frame in plates_of(site)]
    shared = [frame for frame in frames if all((frame.name, frame.dim) in key for key in keys)]
    return sorted(shared, key=lambda frame: -frame.dim)


def check_other_size(sites: list[dict[str, Any]], plate: DataPlate, num_data: int) -> None:
    """Raise ``ProgramError`` if it could not be told which plate is the data's in a batch of another size.

    ``plate`` is the data plate of a run with these sites, and ``num_data`` the size of the other batch.
    """
    if plate.name != "data":
        own = [frame for frame in _shared(sites) if plate.is_frame(frame)]
        others = [frame for frame in _shared(sites) if num_data in (frame.size, frame.full_size)]
        _refuse_other_dims(own[:1] + others, num_data)


def _refuse_other_dims(found: list[Any], num_data: int) -> None:
    """Refuse plates in two dimensions that hold all sites, and as many members as there are data."""
    names = {frame.dim: frame.name for frame in found}
    if len(names) > 1 and num_data > 1:  # one member of each is the same datum
        first, second, *_ = names.values()
        raise ProgramError(
            f"found two plates for {num_data} data, {first!r} and {second!r}, which hold all sites, expected "
            'that of the data to have the name, as in pyro.plate("data", len(x))'
        )


def _refuse_two(sites: list[dict[str, Any]], found: list[Any]) -> None:
    """Refuse plates of two names that hold latents and data apart: one of them may hold something else."""
    names = {frame.name for frame in found}
    apart = [{f.name for f in plates_of(site) if f.name in names} for site in sites if site["is_observed"]]
    observed = set().union(*apart)
    for site in sites:
        own = {frame.name for frame in plates_of(site) if frame.name in names}
        if own and observed and not own & observed:
            raise ProgramError(
                f"site {site['name']!r}: found in the plate {min(own)!r}, as large as the plate {min(observed)!r} of "
                'what is observed, expected one name for the plate of the data, as in pyro.plate("data", len(x))'
            )


class ParticlePlate(PlateMessenger):
    """A plate of K particles, left of a program's own plates.

    Parameters
    ----------
    num_particles, dim
        K, and where it goes.
    num_data
        The length of what the programs are called with.
    shares_globals
        Draw latents outside of the data plate once for all particles.
    plate
        The data plate, where it is known already.
    """

    def __init__(
        self, num_particles: int, dim: int, num_data: int, shares_globals: bool, plate: DataPlate | None = None
    ) -> None:
        super().__init__(PARTICLES, num_particles, dim=dim)
        self.num_data, self.shares_globals, self.plate = num_data, shares_globals, plate

    def _process_message(self, msg: Any) -> None:
        if self.shares_globals and msg["type"] == "sample" and not self._is_local(msg):
            return
        super()._process_message(msg)

    def _is_local(self, msg: Any) -> bool:
        if self.plate is not None:
            return self.plate.holds(msg)
        return any(may_hold_data(frame, self.num_data) for frame in plates_of(msg))
