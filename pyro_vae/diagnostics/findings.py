"""What a diagnosis found, as a table, a figure and a data frame of all units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.display import Result, ResultTable, rounded, with_error

__all__ = ["Diagnosis"]


@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """The result of :func:`pyro_vae.diagnose` in nats per datum. ``print`` shows a table, and so does a notebook.

    Sites are in the model's order, tensors in float64 on the CPU.

    An error is the Monte Carlo standard error given the data. Those of ``mutual_information`` and ``aggregate_kl``
    include the spread of the data.

    Attributes
    ----------
    num_data
        N. The mutual information and the aggregate KL use ``num_data_mi`` instead.
    elbo, elbo_error
        The evidence lower bound.
    fractions
        The share of each site in the ELBO: ``log p(x|z) / elbo`` of the observed site, ``-kl / elbo`` of a latent. They
        sum to 1. In a negative ELBO, negative terms have positive shares.
    kl, kl_error
        KL of each latent site given the sites before it.
    kl_per_unit
        ``(D,)`` of each latent site, which sum to its ``kl``; one entry if the site does not factorise.
    activity
        Var_x(E_q[z|x]) of each unit, ``(D,)``, minus the variance from sampling; noise can make it negative. Latents
        without a finite mean, such as ``Categorical``, are left out here and in the next two.
    active_units, units
        The number of units with an activity above the threshold, and of all units.
    mutual_information, mutual_information_error
        Index-code estimate of I(x; z), all latents jointly (Hoffman and Johnson, 2016), from the first
        ``num_data_mi`` data.
    mutual_information_bound
        log of ``num_data_mi``, which the estimate cannot exceed.
    aggregate_kl, aggregate_kl_error
        KL(q(z) ‖ p(z)) of the aggregate posterior to the prior, from the same draws.
    num_data_mi
        The number of data of the mutual information and the aggregate KL.
    warnings
        A sentence for each layer that has collapsed.
    threshold
        The activity above which a unit counts as active.
    """

    num_data: int
    elbo: float
    elbo_error: float
    fractions: dict[str, float]
    kl: dict[str, float]
    kl_error: dict[str, float]
    kl_per_unit: dict[str, Tensor]
    activity: dict[str, Tensor]
    active_units: dict[str, int]
    units: dict[str, int]
    mutual_information: float
    mutual_information_error: float
    mutual_information_bound: float
    aggregate_kl: float
    aggregate_kl_error: float
    num_data_mi: int
    warnings: list[str]
    threshold: float

    def is_active(self) -> dict[str, Tensor]:
        """Return where units are active, ``(D,)`` for each site of ``activity``."""
        return {name: values > self.threshold for name, values in self.activity.items()}

    def plot(self) -> Any:
        """Return a figure of the KL of each layer and unit, see :func:`pyro_vae.plots.kl_per_unit`."""
        from pyro_vae.plots import kl_per_unit  # only here, as it needs matplotlib

        return kl_per_unit(self)

    def _table(self) -> ResultTable:
        rows = []
        for name, fraction in self.fractions.items():
            figure, error = f"{fraction * self.elbo:.3f}", ""
            if is_latent := name in self.kl:
                figure, error = rounded(-self.kl[name], self.kl_error[name])
            units = f"{self.active_units[name]} of {self.units[name]}" if name in self.units else ""
            rows.append((f"{name}, {'-KL' if is_latent else 'log p'}", figure, error, f"{fraction:.1%}", units))
        information = with_error(self.mutual_information, self.mutual_information_error)
        aggregate = with_error(self.aggregate_kl, self.aggregate_kl_error)
        notes = [
            f"mutual information of latents and data {information} nats, at most log {self.num_data_mi} = "
            f"{self.mutual_information_bound:.2f}",
            f"KL of the aggregate posterior to the prior {aggregate} nats",
            *self.warnings,
        ]
        title = f"ELBO {with_error(self.elbo, self.elbo_error)} nats per datum, {self.num_data} data"
        return ResultTable(("", "nats", "±", "of the ELBO", "active units"), rows, title, notes)

    def _columns(self) -> dict[str, Any]:
        found: dict[str, list[Any]] = {name: [] for name in ("site", "unit", "kl", "activity", "is_active")}
        for name, kl in self.kl_per_unit.items():
            activity = self.activity.get(name)
            if activity is None:  # a latent without a mean
                activity = torch.full_like(kl, math.nan)
            elif activity.shape != kl.shape:  # a site that does not factorise has one KL for all its units
                kl = torch.full_like(activity, math.nan)
            found["site"] += [name] * len(kl)
            found["unit"] += range(len(kl))
            found["kl"] += kl.tolist()
            found["activity"] += activity.tolist()
            found["is_active"] += [None if math.isnan(value) else value > self.threshold for value in activity.tolist()]
        return found
