r"""Batch normalisation of a batch that ranks share, by the mean and the variance of all of it.

.. math:: \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad
          \mu = \frac{\sum_r \sum x}{\sum_r n_r}, \quad \sigma^2 = \frac{\sum_r \sum (x - \mu)^2}{\sum_r n_r}

Ioffe and Szegedy, *Batch Normalization*, 2015. ``torch.nn.SyncBatchNorm`` does the same on GPUs alone, and in place of
the layer.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_vae.nn.codebook import Codebook
from pyro_vae.runtime.batch_sums import is_shared, summed
from pyro_vae.runtime.ranks import Ranks

__all__ = ["statistics_of", "without_batch_statistics"]


def without_batch_statistics(ranks: Ranks, module: nn.Module, objective: Any, warns: bool) -> bool:
    """Return whether the steps of a module can be compiled: they send no sums over a batch to other ranks."""
    found = [type(part).__name__ for part in module.modules() if isinstance(part, (_BatchNorm, Codebook))]
    found += [repr(objective)] if getattr(objective, "has_batch_means", False) else []
    if found and ranks.size > 1 and warns:
        warnings.warn(
            f"the training step is not compiled: {found[0]} has statistics of the batch, which ranks share",
            UserWarning,
            stacklevel=4,
        )
    return not found or ranks.size == 1


@contextmanager
def statistics_of(ranks: Ranks, module: nn.Module) -> Iterator[None]:
    """Let the batch normalisation in a module take the statistics of a whole batch, for a block."""
    if ranks.size == 1:
        yield
        return
    layers = [part for part in module.modules() if isinstance(part, _BatchNorm) and "forward" not in vars(part)]
    try:
        for layer in layers:
            layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: _BatchNorm, x: Tensor) -> Tensor:
    if not is_shared() or not (layer.training or layer.running_mean is None):
        return type(layer).forward(layer, x)
    layer._check_input_dim(x)
    dims = [dim for dim in range(x.dim()) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
    count = summed(x.new_tensor(float(x.numel() / x.shape[1])))
    mean = summed(x.sum(dims)) / count
    centred = x - mean.reshape(shape)
    variance = summed(centred.square().sum(dims)) / count
    _update(layer, mean.detach(), variance.detach() * count / (count - 1))
    scaled = centred * (variance + layer.eps).rsqrt().reshape(shape)
    if layer.affine:
        scaled = scaled * layer.weight.reshape(shape) + layer.bias.reshape(shape)
    return scaled


@torch.no_grad()
def _update(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics."""
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        return
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    rate = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), rate)
    layer.running_var.lerp_(variance.to(layer.running_var.dtype), rate)
