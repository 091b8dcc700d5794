"""Callbacks for :func:`pyro_vae.fit`, which are called with the record of each epoch."""

from __future__ import annotations

from collections.abc import Callable

from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.training.history import Record

__all__ = [
    "tensorboard",
]


@checked
def tensorboard(folder: PathLike) -> Callable[[Record], None]:
    """Return a callback for :func:`fit` that logs every record to TensorBoard.

    Raises
    ------
    ModuleNotFoundError
        If the package ``tensorboard`` is not installed.
    """
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def log(record: Record) -> None:
        for name, value in record.items():
            if name != "epoch" and isinstance(value, (int, float)):
                writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    return log
