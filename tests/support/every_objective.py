"""Every objective of the package, with every estimator of its gradient, for the tests that go over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from pyro_vae import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Objective, RenyiBound, ReweightedWakeSleep, WakeSleep

Make = Callable[..., Objective]

# name -> a function of the number of particles (all that are drawn; even) and of the keywords that all of them take
BOUNDS: dict[str, Make] = {
    "ELBO": lambda k, **o: ELBO(k, **o),
    "IWAE": lambda k, **o: IWAE(k, **o),
    "MIWAE": lambda k, **o: MIWAE(2, k // 2, **o),
    "PIWAE": lambda k, **o: PIWAE(2, k // 2, **o),
    "CIWAE": lambda k, **o: CIWAE(0.3, k, **o),
    "Renyi(0.5)": lambda k, **o: RenyiBound(0.5, k, **o),
    "Renyi(-1)": lambda k, **o: RenyiBound(-1.0, k, **o),
    "Renyi(2)": lambda k, **o: RenyiBound(2.0, k, **o),
}
EXTREMES: dict[str, Make] = {
    "VR-max": lambda k, **o: RenyiBound(-math.inf, k, **o),
    "VR-min": lambda k, **o: RenyiBound(math.inf, k, **o),
}
OTHERS: dict[str, Make] = {
    "ELBO analytic": lambda k, **o: ELBO(k, kl="analytic", **o),
    "free bits": lambda k, **o: ELBO(k, free_bits=0.01, **o),
    "free bits per unit": lambda k, **o: ELBO(k, free_bits=0.01, free_bits_per="unit", **o),
    "capacity": lambda k, **o: ELBO(k, capacity=0.5, capacity_weight=3.0, **o),
}
WAKE_SLEEP: dict[str, Make] = {
    "wake-sleep": lambda k, **o: WakeSleep(k, **o),
    "reweighted": lambda k, **o: ReweightedWakeSleep(max(k, 2), **o),
    "reweighted, wake": lambda k, **o: ReweightedWakeSleep(max(k, 2), guide_phase="wake", **o),
}
GRADIENTS = ("reparam", "stl", "dreg")


# Names of all objectives without an estimator of its own, and of each other one with one of them in turn.
ONE_GRADIENT_EACH = {
    f"{name}, {GRADIENTS[i % (2 if name in EXTREMES else 3)]}" for i, name in enumerate(BOUNDS | EXTREMES | OTHERS)
} | {*WAKE_SLEEP}


def all_of_them(num_particles: int) -> dict[str, Objective]:
    """One of each, by name."""
    made = {
        f"{name}, {gradient}": make(num_particles, gradient=gradient)
        for name, make in {**BOUNDS, **EXTREMES, **OTHERS}.items()
        for gradient in GRADIENTS
        if not (name in EXTREMES and gradient == "dreg")  # which takes a smooth bound
    }
    return made | {name: make(num_particles) for name, make in WAKE_SLEEP.items()}
