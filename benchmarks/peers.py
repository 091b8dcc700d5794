"""The other implementations that the benchmarks run beside pyro_vae, each as its own users would write it.

Every training contestant has a ``round(steps)``, which takes so many steps on batches of the data it was made with,
waits until they are done, and returns the loss of each in nats per image. All start from Glorot's uniform weights and
zero biases, the same ones under one seed of torch, and bound the log-scale of q(z|x) as
:func:`pyro_vae.nn.scales.bounded_scale` does, so that they compute the same function. A peer is imported when its
contestant is made, so ``ModuleNotFoundError`` comes from there.

What "its own" means: Pyro runs ``SVI.step`` at its defaults, validation included; Pythae takes its trainer's steps,
each of which reads its loss; the hand-written PyTorch is what one writes without a library for programs; NumPyro, in
peers_numpyro.py, runs a whole round as one ``fori_loop`` under ``jit``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, Protocol

import pyro
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional

HALF = math.log(1e3)  # bounds of the log-scale of q(z|x)


class Contestant(Protocol):
    """A program with its optimiser, which takes training steps on data of its own."""

    def round(self, steps: int) -> list[float]:
        """Take so many steps; return the loss of each, in nats per image."""


def batches(data: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield whole batches, in a new order at each pass; the data stay on their device."""
    while True:
        order = torch.randperm(len(data)).to(data.device)
        for start in range(0, len(data) - batch_size + 1, batch_size):
            yield data.index_select(0, order[start : start + batch_size])


class TorchContestant:
    """A contestant that runs ``step``, a function from a batch to its loss, on one batch after the other."""

    def __init__(
        self,
        step: Callable[[Tensor], Any],
        data: Tensor,
        batch_size: int,
        context: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.step, self.batches, self.context = step, batches(data, batch_size), context

    def round(self, steps: int) -> list[float]:
        with self.context():
            losses = [self.step(next(self.batches)) for _ in range(steps)]
        return torch.stack([torch.as_tensor(loss) for loss in losses]).tolist()  # waits for a GPU


def pyro_svi(vae: Any, data: Tensor, batch_size: int, lr: float = 1e-3, particles: int = 0) -> TorchContestant:
    """Train with Pyro's ``SVI.step``: by ``Trace_ELBO``, or by IWAE's bound if ``particles`` is not 0."""
    pyro.clear_param_store()
    loss = Trace_ELBO()
    if particles:
        loss = RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": lr}), loss)
    return TorchContestant(lambda x: svi.step(x) / len(x), data, batch_size)


def mlp(*widths: int) -> nn.Sequential:
    """Make affine layers with tanh between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
        nn.init.xavier_uniform_(layers[-2].weight)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


class HandWritten(nn.Module):
    """The loss of a VAE in plain PyTorch: one sample, the KL in closed form."""

    def __init__(self, hidden_dims: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.encoder = mlp(784, *hidden_dims, 2 * latent_dim)
        self.decoder = mlp(latent_dim, *hidden_dims[::-1], 784)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        loc, raw = self.encoder(x).chunk(2, -1)
        log_scale = HALF * torch.tanh(raw / HALF)
        scale = log_scale.exp()
        logits = self.decoder(loc + scale * torch.randn_like(scale))
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (loc.square() + scale.square() - 1).sum() - log_scale.sum()
        return (reconstruction + kl) / len(x)


def hand_written(
    data: Tensor,
    batch_size: int,
    hidden_dims: Sequence[int],
    latent_dim: int,
    compile: bool,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> TorchContestant:
    """Train plain PyTorch with fused Adam, eager or by ``torch.compile``."""
    module = HandWritten(hidden_dims, latent_dim).to(data.device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    loss_of = torch.compile(module) if compile else module

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return TorchContestant(step, data, batch_size, context)


def pythae_vae(encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> Any:
    """Make Pythae's VAE of two networks: from x to the mean and the raw log-scale, and from z to logits."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder

        def forward(self, x: Tensor) -> Any:
            loc, raw = self.network(x).flatten(1).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * HALF * torch.tanh(raw / HALF))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=latent_dim, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder(), decoder=Decoder())


def pythae(data: Tensor, batch_size: int, hidden_dims: Sequence[int], latent_dim: int) -> TorchContestant:
    """Train Pythae's model by the step of its trainer, without the trainer's loader."""
    encoder = nn.Sequential(nn.Flatten(), mlp(784, *hidden_dims, 2 * latent_dim))
    model = pythae_vae(encoder, mlp(latent_dim, *hidden_dims[::-1], 784), latent_dim).to(data.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(x: Tensor) -> float:
        loss = model({"data": x}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return TorchContestant(step, data, batch_size)
