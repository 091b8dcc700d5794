r"""The objective of data of which some have a label.

Kingma et al. (2014) minimise, over the labelled data l and the unlabelled data u,

.. math:: \mathcal{J}^\alpha = \sum_l \mathcal{L}(x_l, y_l) + \sum_u \mathcal{U}(x_u)
          + \alpha\, \frac1{N_l} \sum_l -\log q(y_l|x_l)

(their equation 9). The bounds alone would train the classifier on unlabelled data only; the last term trains it on the
labels. It is α times a mean over the :math:`N_l` labels, and the paper takes :math:`\alpha = 0.1\, N` for N data. So
each label counts :math:`a = \alpha / N_l`, and the part of one datum in the loss is

.. math:: \ell(x, y) = \begin{cases} \mathcal{L}(x, y) - a \log q(y|x) & \text{with a label} \\
          \mathcal{U}(x) & \text{without, } y = -1. \end{cases}

The loss of a batch is the sum of these. A datum is run under all labels at once, whether it has one or not, and its own
label then picks one of the results. What is computed therefore does not depend on which data have labels, and it can be
compiled.

Kingma, Rezende, Mohamed and Welling, *Semi-supervised Learning with Deep Generative Models*, 2014.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn

from pyro_vae.data.batch import Batch, as_batch, call
from pyro_vae.errors import ProgramError
from pyro_vae.inference.handlers import StochasticFunction
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.sites import density
from pyro_vae.inference.traces import PairTrace
from pyro_vae.objectives.estimate import Estimate
from pyro_vae.objectives.gradients import sites_without_path
from pyro_vae.objectives.labels import Kl, all_labels, trace_labels, weights_of_labels
from pyro_vae.objectives.objective import Objective
from pyro_vae.programs.labelled import NO_LABEL, LabelledModel, unpack
from pyro_vae.programs.semi_supervised import Guide
from pyro_vae.runtime.arguments import NonNegativeNumber, PositiveInteger, checked
from pyro_vae.runtime.modules import owners

__all__ = ["SemiSupervised"]


class _Labelled(NamedTuple):
    """Data, and their labels or ``NO_LABEL``."""

    x: Tensor  # (B, *data_shape)
    y: Tensor  # (B,)


class SemiSupervised(Objective):
    r"""The objective of :class:`pyro_vae.M2` for data of which some have a label.

    .. math:: \mathrm{bound}(x, y) = \begin{cases} -\mathcal{L}(x, y) + a \log q(y|x) & \text{with a label} \\
              -\mathcal{U}(x) & \text{without, } y = -1 \end{cases}

    The true bound, which is the one reported, lacks the term with :math:`a` and annealing. It is the bound of
    log p(x, y) for data with a label, and of log p(x) for the others.

    A batch is packed, ``m2.pack(x, y)``, or the two arguments x and y, or x alone, whose data have no label. A weight
    from :func:`pyro_vae.anneal_kl` weighs the KL of z, not that of the label.

    Parameters
    ----------
    alpha
        :math:`a`, the weight of each label's log q(y|x); 0 or more. The α of the paper, 0.1 N, multiplies the mean over
        the :math:`N_l` labels, so that of each label is ``0.1 * N / N_l`` where batches are drawn evenly from all N
        data. Where they hold a larger part of the labelled data than the data set does, it is as much smaller.
    num_particles
        K, the number of latents drawn for each datum under each label.
    kl
        ``"analytic"`` takes the KL of z in closed form if there is one. The noise of ``"sample"`` hides the differences
        between labels from which the classifier learns.

    Raises
    ------
    ValueError
        If an argument is out of its range. When run: if a label is neither -1 nor one of the classes.
    ProgramError
        When run: if the programs are not those of an M2, or z cannot be reparameterised.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling, *Semi-supervised Learning with Deep Generative Models*, 2014, equation 9.

    Examples
    --------
    >>> import pyro_vae
    >>> m2 = pyro_vae.M2((4,), num_classes=3, latent_dim=2, hidden_dims=(8,))
    >>> x, y = torch.eye(4), torch.tensor([0, 2, -1, -1])
    >>> objective = SemiSupervised(alpha=0.1 * 4 / 2)
    >>> history = pyro_vae.fit(
    ...     m2.model, m2.guide, m2.pack(x, y), objective=objective, batch_size=4, num_epochs=2, progress=False
    ... )
    >>> objective.bound(m2.model, m2.guide, m2.pack(x, y)).shape
    torch.Size([4])
    """

    @checked
    def __init__(self, alpha: NonNegativeNumber, num_particles: PositiveInteger = 1, *, kl: Kl = "analytic") -> None:
        super().__init__(num_particles)
        self.alpha, self.kl = alpha, kl

    def arguments(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "kl": self.kl}

    def reduce(self, log_w: Tensor) -> Tensor:
        return log_w.mean(0)

    def estimate(self, model: StochasticFunction, guide: StochasticFunction, *args: Any, **kwargs: Any) -> Estimate:
        """Return the loss and the bounds of one run of the programs under all labels."""
        m2_guide = _guide_of_m2(model, guide)
        x, y = _labelled(as_batch(args, kwargs), m2_guide)
        labels = all_labels(m2_guide.num_classes, x)
        given_labels = poutine.condition(data={"y": labels})
        pair = trace_labels(given_labels(model), given_labels(guide), labels, x, self.num_particles)
        _check_path(pair)
        classified = pair.guide_sites["y"]
        log_q = density(classified).expand(self.num_particles, *labels.shape)[0]  # (C, B), log q(y|x)
        seen_log_q = scale_and_mask(log_q, mask=classified["mask"])
        own = y.clamp(min=0)[None]  # (1, B)
        has_label = y != NO_LABEL

        def bound(scaled: bool) -> Tensor:
            log_w = self.reduce(weights_of_labels(pair, self.kl, scaled=scaled))  # (C, B)
            enumerated = (log_q.exp() * (log_w - seen_log_q)).sum(0)
            return torch.where(has_label, log_w.gather(0, own)[0], enumerated)

        true_bound = bound(scaled=False)
        maximised = bound(scaled=True) if pair.is_annealed else true_bound
        maximised = maximised + self.alpha * torch.where(has_label, seen_log_q.gather(0, own)[0], 0.0)
        return Estimate(-(pair.common_scale * maximised).sum(), maximised, true_bound)

    def programs_to_check(self, programs: ProgramPair) -> ProgramPair:
        """Return the pair with a class in the place of labels that are missing, under which data can be checked."""
        _guide_of_m2(programs.model, programs.guide)
        return replace(programs, model=_AnyLabel(programs.model), guide=_AnyLabel(programs.guide))


class _AnyLabel(nn.Module):
    """A half of an M2 that gives data without a label the first class.

    No PyroModule, which would rename the parameters of the program that it wraps.
    """

    def __init__(self, program: StochasticFunction) -> None:
        super().__init__()
        self.program = program
        self.owner = tuple(_halves(program))  # in a tuple: not a part a second time

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x, y = _labelled(as_batch(args, kwargs), *self.owner)
        with poutine.condition(data={"y": y.clamp(min=0)}):  # which runs the classifier too
            return self.program(x)


def _labelled(batch: Batch, half: LabelledModel | Guide) -> _Labelled:
    """Return the data and labels of a batch. Raise ``ValueError`` if it is none of a program with labels."""

    def unpacked(x: Tensor, y: Tensor | None = None) -> _Labelled:
        x, y = unpack(x, y, half.data_shape, half.num_classes, NO_LABEL)
        y = torch.full((len(x),), NO_LABEL, device=x.device) if y is None else y
        if y.shape != (len(x),):
            raise ValueError(f"y: found labels of shape {tuple(y.shape)}, expected one for each of {len(x)} data")
        return _Labelled(x, y)

    return call(unpacked, batch)


def _check_path(pair: PairTrace) -> None:
    """Raise ``ProgramError`` for a latent whose gradient would need the score."""
    for name in sites_without_path(pair):
        if name != "y":  # which is given
            raise ProgramError(
                f"site {name!r}: found a latent that cannot be reparameterised ({pair.guide_sites[name]['fn']}), "
                "expected one with rsample for SemiSupervised"
            )


def _halves(program: StochasticFunction) -> list[Any]:
    return [owner for owner in owners(program) if isinstance(owner, (LabelledModel, Guide))]


def _guide_of_m2(model: StochasticFunction, guide: StochasticFunction) -> Guide:
    """Return the guide of an M2 that a program runs. Raise ``ProgramError`` for programs of another kind."""
    halves = _halves(model), _halves(guide)
    if [list(map(type, half)) for half in halves] != [[LabelledModel], [Guide]]:
        found = [[type(owner).__name__ for owner in owners(half)] or type(half).__name__ for half in (model, guide)]
        raise ProgramError(
            f"model, guide: found {found[0]} and {found[1]}, expected the model and the guide of a pyro_vae.M2, whose "
            "label SemiSupervised sums out"
        )
    return halves[1][0]
