"""The progress bar of a run: the epoch, the data a second, the bound."""

from __future__ import annotations

from collections.abc import Callable

from tqdm.auto import tqdm

from pyro_vae.compilation.compiled import make_reporter
from pyro_vae.data.batches import Batches
from pyro_vae.data.reading import held
from pyro_vae.training.run_state import RunState

__all__ = ["make_bar", "reporter", "show"]


def make_bar(state: RunState, num_epochs: int, num_data: int | None, progress: bool) -> tqdm:
    """Return a bar over the data of all epochs, begun where the run stands."""
    return tqdm(
        total=None if num_data is None else num_epochs * num_data,
        initial=state.epoch * (num_data or 0) + state.count,
        unit="img",
        unit_scale=True,
        disable=not progress,
        mininterval=0.5,
    )


def show(bar: tqdm, state: RunState, bound: float) -> None:
    """Write the bound of the epoch under way, and that of the last validation, beside the bar."""
    shown = {"bound": bound, "valid": state.records[-1]["valid_bound"] if state.records else None}
    bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items() if value is not None}, refresh=False)


def reporter(progress: bool, *batches: Batches | None) -> Callable[[str], None]:
    """Return a function that prints above the progress bar, and print what is held of data on disk."""
    report = make_reporter(progress)
    for line in filter(None, (held(each._source) for each in batches if each is not None)):
        report(line)
    return report
