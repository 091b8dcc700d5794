r"""Effect handlers: programs run with another weight of their KL, or with their latents at the means.

A handler stands around a program and changes what its ``pyro.sample`` statements mean; the program itself stays as it
is. Weighing the Kullback-Leibler divergence of the latents,

.. math:: \mathcal{L}_\beta(x) = \mathbb{E}_q[\log p(x|z)] - \beta \, \mathrm{KL}\bigl(q(z|x) \,\|\, p(z)\bigr),

is such a change: every latent site gets the scale β, in model and guide alike, and the observed site keeps its own.
With β from 0 to 1 while training starts it is the warm-up of Bowman et al. (2016) and Sønderby et al. (2016), with a
constant β > 1 the β-VAE of Higgins et al. (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.errors import ProgramError
from pyro_vae.inference.handlers import ProgramWrapper, StochasticFunction
from pyro_vae.inference.sites import KL_WEIGHT
from pyro_vae.inference.traces import PairTrace
from pyro_vae.runtime.arguments import NonNegativeNumber, checked
from pyro_vae.runtime.kinds import Anything
from pyro_vae.runtime.objects import Instances, Sequences
from pyro_vae.schedules import Schedule

__all__ = [
    "Annealed",
    "anneal_kl",
    "bare",
    "is_annealed",
    "kl_weights",
]


class _Weigh(Messenger):
    """Scale latent sites. A factor of exactly 0, which ``poutine.scale`` refuses, is as good as any.

    Only one half of a pair may mark a latent for enumeration, most often the guide, which runs first: ``enumerated`` is
    what the other one marked.
    """

    def __init__(self, weight: float | Tensor, sites: frozenset[str] | None, enumerated: frozenset[str]) -> None:
        super().__init__()
        self.weight, self.sites, self.enumerated = weight, sites, enumerated
        self.latents: list[str] = []
        self.marked: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if msg["infer"].get("enumerate"):
            self.marked.add(msg["name"])
        if msg["infer"].get("enumerate") or msg["name"] in self.enumerated:
            return
        self.latents.append(msg["name"])
        if self.sites is None or msg["name"] in self.sites:
            plain = isinstance(msg["scale"], float) and msg["scale"] == 1.0
            msg["scale"] = self.weight if plain else msg["scale"] * self.weight
            msg["infer"][KL_WEIGHT] = msg["infer"].get(KL_WEIGHT, 1.0) * self.weight


class Annealed(ProgramWrapper):
    """A program whose latent sites are weighed; made by :func:`anneal_kl`."""

    def __init__(
        self, program: StochasticFunction, weight: float | Tensor | Schedule, sites: frozenset[str] | None
    ) -> None:
        super().__init__(program)
        self.sites = sites
        self.guide: tuple[Annealed, ...] = ()  # of a model, in a tuple: not a part of the program
        self.marked: frozenset[str] = frozenset()  # for enumeration, by the last run
        self._held = (weight,)  # in a tuple: neither a parameter nor a part of the program
        if isinstance(weight, Schedule):
            self.schedule = weight

    @property
    def weight(self) -> float | Tensor:
        """The current weight."""
        (weight,) = self._held
        return weight.value if isinstance(weight, Schedule) else weight

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        enumerated = frozenset().union(*(guide.marked for guide in self.guide))
        with _Weigh(self.weight, self.sites, enumerated) as weigh:
            result = self.program(*args, **kwargs)
        self.marked = frozenset(weigh.marked)
        for name in sorted((self.sites or frozenset()).difference(weigh.latents)):
            raise ProgramError(f"site {name!r}: found in sites, but the program has the latents {weigh.latents}")
        return result

    def __repr__(self) -> str:
        inner = f"{self.program}, " if isinstance(self.program, Annealed) else ""
        (weight,) = self._held
        return f"Annealed({inner}{self.label}={'a tensor' if isinstance(weight, Tensor) else weight})"

    @property
    def label(self) -> str:
        """``kl_weight``, with the names of the sites if it is not that of all."""
        return "kl_weight" if self.sites is None else f"kl_weight({', '.join(sorted(self.sites))})"


@checked
def anneal_kl(
    model: StochasticFunction,
    guide: StochasticFunction,
    weight: Annotated[NonNegativeNumber | Tensor | Schedule, "a number, a Schedule or a tensor"],
    sites: Annotated[Sequence[str] | None, Anything("names of sites")] = None,
) -> tuple[Annealed, Annealed]:
    r"""Weigh log p(z) - log q(z) of latent sites, in model and guide alike.

    .. math:: \mathcal{L}(x) = \mathbb{E}_q\Bigl[\log p(x|z) + \sum_i \beta_i
              \bigl(\log p(z_i|\cdot) - \log q(z_i|\cdot)\bigr)\Bigr]

    The pair that is returned has the parameters of the given one and trains them, with this package's objectives and
    with Pyro's ``Trace_ELBO`` and ``TraceMeanField_ELBO``. What is reported of it, by :func:`pyro_vae.fit`,
    :func:`pyro_vae.log_likelihood` and :func:`pyro_vae.log_weights`, is not weighed.

    Parameters
    ----------
    model, guide
        A pair of programs.
    weight
        β, 0 or more: a number; a schedule such as :class:`pyro_vae.schedules.Linear`, which :func:`pyro_vae.fit` moves
        on at each step (in a loop of your own, call its ``step()``); or a tensor with one entry, which you change in
        place.
    sites
        The names of the latents to weigh; all of them by default. Observed sites stay as they are, and so do latents
        that the programs mark for enumeration (mark them before annealing; Pyro's TraceEnum_ELBO also wants one scale
        for all that an enumerated latent feeds). Calls can be nested, for weights that differ from site to site.

    Returns
    -------
    tuple
        The annealed model and guide, whose attribute ``program`` is the program that was given.

    Raises
    ------
    ValueError
        If the weight is a number that is negative or not finite, or a tensor with more than one entry.
    TypeError
        If it is none of the above.
    ProgramError
        When run, if a program has no latent of a name in ``sites``.

    References
    ----------
    Bowman et al., *Generating Sentences from a Continuous Space*, 2016. Sønderby et al., *Ladder Variational
    Autoencoders*, 2016. Higgins et al., *beta-VAE*, 2017.

    Examples
    --------
    >>> import torch, pyro_vae
    >>> vae = pyro_vae.VAE(data_shape=(4,), latent_dim=2, hidden_dims=(8,))
    >>> model, guide = anneal_kl(vae.model, vae.guide, weight=0.0)
    >>> pyro_vae.ELBO().bound(model, guide, torch.zeros(3, 4)).shape  # the reconstruction alone
    torch.Size([3])
    """
    if isinstance(weight, Tensor):
        if weight.numel() != 1:
            raise ValueError(f"weight: found a tensor of shape {tuple(weight.shape)}, expected one entry")
    elif not isinstance(weight, Schedule):
        weight = float(weight)
    if isinstance(sites, str):
        raise TypeError(f"sites: found the string {sites!r}, expected a sequence of names such as [{sites!r}]")
    if sites is not None:
        names_alone = Sequences("a sequence of names", Instances("a name", str, by_value=True))
        names_alone.check("sites", tuple(sites) if isinstance(sites, (set, frozenset)) else sites)
    names = None if sites is None else frozenset(sites)
    annealed_model, annealed_guide = Annealed(model, weight, names), Annealed(guide, weight, names)
    annealed_model.guide = (annealed_guide,)
    return annealed_model, annealed_guide


def is_annealed(pair: PairTrace) -> bool:
    """Return whether sites of a run have weights of their own, or the guide a loss of its own (``pyro.factor``)."""
    if any(site["is_observed"] for site in pair.scored_sites.values()):
        return True
    weights = [
        pair.relative_scale(site) if pair.plate.holds(site) else site["infer"].get(KL_WEIGHT, 1.0)
        for site in (*pair.scored_sites.values(), *pair.model_sites.values())
    ]
    return any(isinstance(weight, Tensor) or weight != 1.0 for weight in weights)


def bare(program: StochasticFunction) -> StochasticFunction:
    """The program under its annealing."""
    return bare(program.program) if isinstance(program, Annealed) else program


def kl_weights(program: StochasticFunction) -> dict[str, float]:
    """The weights that a program is annealed with now, by label; none for a bare one. Reads the device.

    >>> kl_weights(anneal_kl(*anneal_kl(len, len, 0.5), 0.5)[0])
    {'kl_weight': 0.25}
    """
    if not isinstance(program, Annealed):
        return {}
    weights = kl_weights(program.program)
    return weights | {program.label: float(program.weight) * weights.get(program.label, 1.0)}
