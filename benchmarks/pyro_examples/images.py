"""Pyro's examples of images at toy size: VAE, M2, the conditional VAE and AIR."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from program import Call, Change, Program, one_loader
from pyro.infer import config_enumerate
from sources import script
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["air", "cvae", "m2", "shrunk", "vae"]

Maker = Callable[[int], Program]
BATCH, BATCHES = 8, 2
SIZE = BATCH * BATCHES


def bits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).float()


def one_hot(num_data: int, num_classes: int) -> Tensor:
    labels = torch.randint(num_classes, (num_data,), generator=torch.Generator().manual_seed(1))
    return nn.functional.one_hot(labels, num_classes).float()


def shrunk(module: nn.Module, factor: float) -> nn.Module:
    """Make first weights smaller, so that importance weights of a toy do not spread over tens of nats."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(factor)
    return module


def in_batches(*data: Tensor) -> list[Call]:
    return [Call(rows) for rows in zip(*(value.split(BATCH) for value in data), strict=True)]


def tuples(*data: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data), batch_size=BATCH)


def vae(source: Path) -> Maker:
    example, x = script(source, "examples/vae/vae.py"), bits(SIZE, 1, 28, 28)

    def make(seed: int) -> Program:
        net: Any = shrunk(example.VAE(z_dim=3, hidden_dim=8), 0.3)
        return Program(net.model, net.guide, net, in_batches(x), x, BATCH)

    return make


def m2(source: Path, *, labelled: bool, enumerated: bool) -> Maker:
    """M2 on batches with labels or without; ``enumerated`` as the script runs it by default, with a guide for that."""
    example = script(source, "examples/vae/ss_vae_M2.py")
    num_pixels, num_classes = 12, 3
    x, y = bits(SIZE, num_pixels), one_hot(SIZE, num_classes)

    def make(seed: int) -> Program:
        enumeration = {"config_enum": "parallel"} if enumerated else {}
        net = example.SSVAE(output_size=num_classes, input_size=num_pixels, z_dim=2, hidden_layers=[5], **enumeration)
        nn.init.normal_(net.decoder.sequential_mlp[1].weight, std=0.3)  # 0.001 in the example: the latents do nothing
        guide = config_enumerate(net.guide, "parallel", expand=True) if enumerated else net.guide
        if not labelled:
            return Program(net.model, guide, net, in_batches(x), x, BATCH)
        return Program(net.model, guide, net, in_batches(x, y), tuples(x, y), BATCH)

    return make


def cvae(source: Path) -> Maker:
    """The conditional VAE: one quadrant of an image is given as ``xs``, the others, in ``ys``, are to be found."""
    example, baseline = script(source, "examples/cvae/cvae.py"), script(source, "examples/cvae/baseline.py")
    images = bits(SIZE, 28, 28)
    given = torch.zeros(28, 28, dtype=torch.bool)
    given[14:, :14] = True
    xs, ys = torch.where(given, images, -1.0), torch.where(given, -1.0, images)

    def make(seed: int) -> Program:
        net: Any = shrunk(example.CVAE(2, 8, 8, baseline.BaselineNet(8, 8)), 0.7)
        return Program(net.model, net.guide, net, in_batches(xs, ys), tuples(xs, ys), BATCH)

    return make


def air(source: Path) -> Maker:
    """Attend, infer, repeat: all of the data are given, and the guide's plate takes a batch of them."""
    example = script(source, "examples/air/air.py")
    x = torch.rand(SIZE, 6, 6, generator=torch.Generator().manual_seed(0))

    def prior(t: int) -> float:
        return 0.6

    def make(seed: int) -> Program:
        net: Any = example.AIR(
            num_steps=2, x_size=6, window_size=4, z_what_size=2, rnn_hidden_size=6, encoder_net=[5], decoder_net=[5],
            predict_net=[5], bl_predict_net=[5], likelihood_sd=1.0,
        )  # fmt: skip
        calls = [Call((x,), {"batch_size": BATCH, "z_pres_prior_p": prior})]
        model, guide = (functools.partial(p, batch_size=None, z_pres_prior_p=prior) for p in (net.model, net.guide))
        by_name = one_loader([Call((), {"data": x, **calls[0].kwargs})])
        change = Change("batch_size=None", model, guide, in_batches(x), x)  # a plate of all data that are given
        return Program(net.model, net.guide, net, calls, by_name, SIZE, change=change)

    return make
