"""Callbacks of :func:`pyro_vae.fit`: functions of an epoch's record, and objects that are told of the whole run.

Any function will do, and is called with each record. A :class:`Callback` is also told when the run starts and how it
ends, whatever ends it::

    start(run)  ->  callback(record) for each epoch  ->  finish(history, error)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_vae.runtime.ranks import alone, ranks
from pyro_vae.training.history import History, Record

__all__ = ["Callback", "Run", "telling"]


@dataclass(frozen=True)
class Run:
    """What a callback is told when training starts.

    Attributes
    ----------
    config
        The program, the objective and the arguments of ``fit``, as plain data by name.
    records
        The epochs that a run had before it was resumed.
    folder
        That of the checkpoint, if there is one.
    resumed
        Whether the run goes on from that checkpoint.
    """

    config: dict[str, Any] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    folder: Path | None = None
    resumed: bool = False


class Callback:
    """A callback that is told of the start and the end of a run, too. Override any of its three methods.

    An exception in one of them ends the run, as one in a function does. The checkpoint of the epoch is then on disk.

    Attributes
    ----------
    place
        What it writes to, if another callback of the run must not write to the same.

    Examples
    --------
    >>> import torch, pyro_vae
    >>> class Told(Callback):
    ...     def start(self, run):
    ...         print(run.config["program"], run.config["program.latent_dim"])
    ...     def __call__(self, record):
    ...         print("epoch", record["epoch"])
    ...     def finish(self, history, error):
    ...         print(len(history.records), "epochs", history.interrupted, error)
    >>> vae = pyro_vae.VAE(data_shape=(3,), latent_dim=2, hidden_dims=(4,))
    >>> history = pyro_vae.fit(
    ...     vae.model, vae.guide, torch.zeros(8, 3), num_epochs=1, batch_size=4, callbacks=[Told()], progress=False
    ... )
    VAE 2
    epoch 1
    1 epochs False None
    """

    place: str | None = None

    def start(self, run: Run) -> None:
        """Take note of a run, before its first step."""

    def __call__(self, record: Record) -> None:
        """Take note of an epoch, after its checkpoint was written."""

    def finish(self, history: History, error: BaseException | None) -> None:
        """Take note of the end of a run whose ``start`` has returned.

        ``error`` is the exception that ended it, if one did. After Ctrl-C or SIGTERM there is none, and
        ``history.interrupted`` is true.
        """


@contextmanager
def telling(
    callbacks: Sequence[Callable[[Record], None]], run: Callable[[], Run], history: History
) -> Iterator[None]:  # fmt: skip
    """Tell callbacks that a run starts, and after the block how it ended; ``run`` is called if one of them asks.

    Raises
    ------
    ValueError
        If two of them have one place.
    """
    asking = [callback for callback in callbacks if isinstance(callback, Callback) and ranks().is_first]
    places = [callback.place for callback in asking if callback.place is not None]
    if twice := [place for place in places if places.count(place) > 1]:
        raise ValueError(f"callbacks: found {len(twice)} that write to {twice[0]!r}, expected one")
    told = run() if asking else Run()
    with ExitStack() as stack:
        for callback in asking:
            with alone():  # of several ranks the first one calls them
                callback.start(told)
            stack.push(lambda kind, error, trace, callback=callback: _finish(callback, history, error))
        yield


def _finish(callback: Callback, history: History, error: BaseException | None) -> None:
    with alone():
        callback.finish(history, error)
