r"""The latents of a pair of programs as one vector of noise for each particle of each datum.

The guide maps noise to latents, site by site (:mod:`pyro_vae.inference.noise`), and the model is run on them:

.. math:: \epsilon_{kb} \in \mathbb{R}^D, \quad z_{kb} = f(\epsilon_{kb}; x_b) \quad\longmapsto\quad
          \log p_0(\epsilon_{kb}), \quad \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb}|x_b)

The sum of the two is the log-density of the noise of the posterior, but for log p(x). Noise of :math:`p_0` is drawn by
running the guide, and any :math:`\epsilon` has both densities and their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data.batch import Arguments, Batch
from pyro_vae.errors import ProgramError
from pyro_vae.inference.each_datum import check_whole_plates, is_made_of_auxiliary_draws, point_mass_of
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.noise import LOG_NOISE, AtNoise, noise_dim, share_at_bounds, support_of, to_noise
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.particles import Way, draw
from pyro_vae.inference.plates import nesting_of
from pyro_vae.inference.running import run
from pyro_vae.inference.traces import PairTrace

__all__ = ["NoiseSpace", "Point", "at_noise"]

_MOST_AT_BOUNDS = 0.02  # what is rounded has no density; so few of the draws move an estimate by less than its error


class Point(NamedTuple):
    """Noise ``(K, B, D)``, its two log-densities ``(K, B)``, and their gradients ``(K, B, D)``."""

    noise: Tensor
    log_noise: Tensor
    log_w: Tensor
    noise_gradient: Tensor
    w_gradient: Tensor


@dataclass(frozen=True)
class _Layout:
    """Where a site's noise lies in the vector of a datum, and the shape that it has in a run."""

    name: str
    rows: slice
    shape: torch.Size  # (*plates other than the data's, *event)
    num_dims: int  # in a run with one particle
    data_dim: int  # the dimension of the data, counted from the left of (particles, *plates, *event)

    @classmethod
    def of(cls, pair: PairTrace, name: str, start: int) -> _Layout:
        """Return the layout of a site whose noise begins at ``start``."""
        site = pair.guide_sites[name]
        event_dim = noise_dim(site["fn"])
        assert event_dim is not None
        noise = _full(to_noise(site["fn"], site["value"]), pair, event_dim)
        shape = noise.movedim(pair.max_plate_nesting + 1 + pair.data_dim, 1).shape[2:]
        stop = start + shape.numel()
        own = nesting_of([site]) + event_dim
        return cls(name, slice(start, stop), shape, own, pair.max_plate_nesting + 1 + pair.data_dim)

    def cut_from(self, noise: Tensor) -> Tensor:
        """Return the site's part of noise ``(K, B, D)``, in the shape of a run."""
        part = noise[..., self.rows].reshape(*noise.shape[:2], *self.shape).movedim(1, self.data_dim)
        return part if len(noise) > 1 else part.reshape(part.shape[part.dim() - self.num_dims :])


def _full(noise: Tensor, pair: PairTrace, event_dim: int) -> Tensor:
    """Return noise with all dimensions, ``(K, *plates, *event)``."""
    num_dims = pair.max_plate_nesting + 1 + event_dim
    return noise.reshape(*(1,) * (num_dims - noise.dim()), *noise.shape)


class NoiseSpace:
    """The noise of a pair's latents.

    Parameters
    ----------
    programs
        The pair, isolated.
    pair
        A run of it.
    way
        How it draws particles, see :mod:`pyro_vae.inference.particles`.

    Raises
    ------
    ProgramError
        If a latent has no noise that could be moved, for it is discrete, say; the message names the site.
    """

    def __init__(self, programs: ProgramPair, pair: PairTrace, way: Way) -> None:
        self.programs, self.way = replace(programs, max_plate_nesting=pair.max_plate_nesting), way
        self.sites: list[_Layout] = []
        self.num_dims = 0
        for name in _movable(pair):
            self.sites.append(_Layout.of(pair, name, self.num_dims))
            self.num_dims = self.sites[-1].rows.stop

    def noise_in(self, pair: PairTrace) -> Tensor:
        """Return the noise ``(K, B, D)`` of what the guide drew in a run."""
        return pair.over_particles(self._noise_in)

    def _noise_in(self, part: PairTrace) -> Tensor:
        columns = []
        for layout in self.sites:
            site = part.guide_sites[layout.name]
            event_dim = noise_dim(site["fn"])
            assert event_dim is not None
            drawn = to_noise(site["fn"], site["value"])
            if (share := share_at_bounds(site["fn"], drawn)) > _MOST_AT_BOUNDS:
                raise ProgramError(
                    f"site {layout.name!r}: found {100 * share:.0f} % of its draws rounded to a bound of the support, "
                    "expected a distribution that is spread more evenly, or programs in float64"
                )
            noise = _full(drawn, part, event_dim).movedim(layout.data_dim, 1)
            columns.append(noise.expand(-1, -1, *layout.shape).reshape(*noise.shape[:2], -1))
        return torch.cat(columns, -1)

    def noise_of(self, x: Batch, latents: poutine.Trace) -> Tensor:
        """Return the noise ``(1, B, D)`` of the latents that a run of the model drew.

        Raises
        ------
        ProgramError
            If the guide draws other sites than the model, or cannot be inverted there.
        """
        for site in self.sites:
            if site.name not in latents:
                raise ProgramError(
                    f"site {site.name!r}: found in the guide alone, expected the latents of the model, or start='prior'"
                )
        pair = run(self.programs, x, given=latents)
        drawn = [pair.guide_sites[site.name] for site in self.sites]  # some bijections take what lies outside, too
        covered = all(bool(support_of(site["fn"]).check(site["value"]).all()) for site in drawn)
        try:
            noise = self.noise_in(pair) if covered else None
        except (KeyError, NotImplementedError) as error:
            raise ProgramError("guide: found a flow without an inverse, expected one, or start='prior'") from error
        if noise is None or not bool(noise.isfinite().all()):
            raise ProgramError(
                "guide: found latents of the model outside of its support, expected a guide that covers what the model "
                "draws, or start='prior'"
            )
        return noise

    def log_densities(self, x: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-density of noise and the log weights of its latents, ``(K, B)`` each."""
        if self.way is False and len(noise) > 1:
            each = [self.log_densities(x, particle[None]) for particle in noise]
            return torch.cat([log_noise for log_noise, _ in each]), torch.cat([log_w for _, log_w in each])
        shaped = noise.reshape(1, -1, self.num_dims) if self.way == "repeat" else noise
        guide = _FromNoise(self.programs.guide, {site.name: site.cut_from(shaped) for site in self.sites})
        pair = draw(replace(self.programs, guide=guide), x, len(noise), self.way)
        log_noise = pair.over_particles(self._log_noise)
        return log_noise, torch.stack(list(pair.terms().values())).sum(0)

    def _log_noise(self, part: PairTrace) -> Tensor:
        found = [part.guide_sites[layout.name] for layout in self.sites]
        return torch.stack([part.per_datum(site[LOG_NOISE], {**site, "mask": None}) for site in found]).sum(0)

    @torch.enable_grad()
    def point(self, batch: Arguments) -> list[Tensor]:
        """Return the densities and their gradients of :func:`at_noise`, for a batch and noise ``(B, K, D)`` behind it.

        It is a function of one batch, so that it can be compiled.
        """
        x, noise = _apart(batch)
        noise = noise.detach().transpose(0, 1).requires_grad_()  # (K, B, D)
        log_noise, log_w = self.log_densities(x, noise)
        gradients = [_gradient(each, noise) for each in (log_noise, log_w)]
        return [log_noise.detach(), log_w.detach(), *gradients]


def _gradient(each: Tensor, noise: Tensor) -> Tensor:
    """Return the gradient of each particle's number by its noise, zero where all that depends on it is masked."""
    if not each.requires_grad:
        return torch.zeros_like(noise)
    return torch.autograd.grad(each.sum(), noise, retain_graph=True, materialize_grads=True)[0]


def at_noise(function: Any, x: Batch, noise: Tensor) -> Point:
    """Return what a space's ``point``, compiled or not, finds at noise ``(K, B, D)``."""
    return Point(noise, *function(_together(x, noise.transpose(0, 1))))


def _together(x: Batch, noise: Tensor) -> Arguments:
    if isinstance(x, Arguments):
        return Arguments(*x.args, **x.kwargs, _noise=noise)
    return Arguments(x, _noise=noise)


def _apart(batch: Arguments) -> tuple[Batch, Tensor]:
    kwargs = dict(batch.kwargs)
    noise = kwargs.pop("_noise")
    return (batch.args[0] if len(batch.args) == 1 and not kwargs else Arguments(*batch.args, **kwargs)), noise


def _movable(pair: PairTrace) -> list[str]:
    """Return the names of the sites that a guide draws, in its order.

    The values of an AutoGuide are point masses that follow from an auxiliary draw; then that is the one that moves.
    """
    drawn = {name: site for name, site in pair.guide_sites.items() if not site["is_observed"]}
    check_whole_plates(pair)
    names = []
    for name, site in drawn.items():
        if noise_dim(site["fn"]) is None:
            if point_mass_of(site) is not None and is_made_of_auxiliary_draws(pair, name):
                continue
            raise ProgramError(
                f"site {name!r}: found {site['fn']}, which takes no path of small steps, expected a latent of real "
                "numbers with a density, whose support has a bijection from the real numbers"
            )
        names.append(name)
    if not names:
        raise ProgramError("guide: found no latent, expected one or more that can be moved")
    return names


class _FromNoise:
    """A guide whose draws are the images of given noise."""

    def __init__(self, guide: StochasticFunction, noise: dict[str, Tensor]) -> None:
        self.__wrapped__ = guide
        self._noise = noise

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with AtNoise(self._noise):
            return self.__wrapped__(*args, **kwargs)
