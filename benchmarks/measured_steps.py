"""Time the training steps of several contestants side by side, see training_step.py, and print the table of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from statistics import mean, median
from typing import NamedTuple

import peers
import peers_numpyro
import torch
from timing import held_memory, peak_memory, present, ratio, rounds, steps_of_half_a_second, table

LARGEST_DIFFERENCE = 5.0  # nats


class Measured(NamedTuple):
    """What a group of contestants took: seconds of each round, the losses, and on a GPU the memory in MiB."""

    steps: int
    seconds: dict[str, list[float]]
    losses: dict[str, float]
    memory: dict[str, tuple[float, float]]

    def agree(self) -> bool:
        """Return whether all optimise the same loss."""
        return max(self.losses.values()) - min(self.losses.values()) < LARGEST_DIFFERENCE


def measure(
    makers: Mapping[str, Callable[[], peers.Contestant]],
    device: torch.device,
    num_rounds: int,
    steps: int | None,
    seed: int,
) -> Measured:
    """Make the contestants and time them; ``steps`` of each a round, by default half a second of the first's."""
    memory: dict[str, tuple[float, float]] = {}

    def made(name: str) -> peers.Contestant:
        torch.manual_seed(seed)  # all start from the same weights
        before = held_memory(device)
        contestant = makers[name]()
        if device.type == "cuda" and not isinstance(contestant, peers_numpyro.NumPyro):
            peak = peak_memory(lambda: contestant.round(1), device)
            contestant.round(steps or 20)
            memory[name] = peak - before.allocated, held_memory(device).reserved - before.reserved
        return contestant

    contestants = present({name: functools.partial(made, name) for name in makers})
    if steps is None:
        steps = steps_of_half_a_second(contestants[next(iter(contestants))].round)
    losses: dict[str, list[float]] = {name: [] for name in contestants}

    def run(name: str) -> None:
        losses[name] += contestants[name].round(steps)

    seconds = rounds({name: functools.partial(run, name) for name in contestants}, num_rounds)
    last = {name: mean(values[-max(len(values) // 5, 1) :]) for name, values in losses.items()}
    return Measured(steps, seconds, last, memory)


def show(measured: Measured, batch_size: int) -> bool:
    """Print the table of one group; return whether the losses agree."""
    reference = next(iter(measured.seconds))
    head, rows = ["", "ms a step", "images/s", f"time / {reference}", "loss"], []
    for name, seconds in measured.seconds.items():
        step = median(seconds) / measured.steps
        rows.append([name, f"{1e3 * step:.3f}", f"{batch_size / step:,.0f}",
                     f"{ratio(measured.seconds, name, reference):.2f}", f"{measured.losses[name]:.2f}"])  # fmt: skip
        if measured.memory:
            rows[-1] += [f"{mib:.0f}" for mib in measured.memory[name]] if name in measured.memory else ["–", "–"]
    table(head + ["MiB of a step", "MiB held"] * bool(measured.memory), rows)
    num_rounds = len(measured.seconds[reference])
    agree = measured.agree()
    print(f"losses {'agree' if agree else 'DIFFER'}; {num_rounds} rounds of {measured.steps} steps\n", flush=True)
    return agree
