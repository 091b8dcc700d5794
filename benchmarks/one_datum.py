"""How long does the score of one datum take, by `log_likelihood`, by a `Scorer`, and by hand in PyTorch?

A VAE 784-400-20 of black and white pixels, untrained, and K = 100 importance samples, on one CPU thread. All of them
compute the same estimate of log p(x), which is checked first with many samples. Reported are medians of process time,
which other processes on the machine change less than the clock. The time of compiling is left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from timing import machine
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_vae
from pyro_vae.nn.scales import bounded_scale


class Hand:
    """The estimate in plain PyTorch, with the networks of a VAE."""

    def __init__(self, vae: pyro_vae.VAE) -> None:
        self.encoder, self.decoder, self.posterior = vae.posterior.network, vae.likelihood.network, vae.posterior

    @torch.no_grad()
    def __call__(self, x: Tensor, num_particles: int) -> Tensor:
        loc, raw = self.encoder(x).unbind(-2)
        scale = bounded_scale(raw, self.posterior.low, self.posterior.high)
        noise = torch.randn(num_particles, *loc.shape)
        z = loc + scale * noise  # (K, B, D)
        logits = self.decoder(z)
        log_p = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").flatten(2).sum(-1)
        log_ratio = (0.5 * noise.square() - 0.5 * z.square() + scale.log()).sum(-1)
        return (log_p + log_ratio).logsumexp(0) - math.log(num_particles)


def milliseconds(call: Callable[[], object], num_calls: int) -> tuple[float, float]:
    """Return the medians of process time and of the clock over calls, after five that do not count."""
    process, clock = [], []
    for index in range(num_calls + 5):
        started = time.process_time(), time.perf_counter()
        call()
        if index >= 5:
            process.append(time.process_time() - started[0])
            clock.append(time.perf_counter() - started[1])
    return 1e3 * statistics.median(process), 1e3 * statistics.median(clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--particles", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae = pyro_vae.VAE((28, 28), 20, (400,))
    x, count = torch.bernoulli(torch.full((1, 28, 28), 0.3)), arguments.particles
    hand = Hand(vae)
    exact = pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles=50_000, seed=0)
    difference = (hand(x, 50_000) - exact.values).abs().item()
    assert difference < 8 * exact.std_error.item() + 1e-3, f"by hand it is another number, by {difference:.3g} nats"
    eager = pyro_vae.Scorer(vae.model, vae.guide, count)
    compiled = pyro_vae.Scorer(vae.model, vae.guide, count, compile=True)
    contestants = {
        "log_likelihood": lambda: pyro_vae.log_likelihood(vae.model, vae.guide, x, count),
        "Scorer": lambda: eager(x),
        "Scorer, compiled": lambda: compiled(x),
        "PyTorch by hand": lambda: hand(x, count),
    }
    print(machine(x.device))
    for name, call in contestants.items():
        process, clock = milliseconds(call, arguments.calls)
        print(f"{name:20s} {process:6.2f} ms of process time, {clock:6.2f} ms by the clock")


if __name__ == "__main__":
    main()
