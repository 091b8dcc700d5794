r"""The two halves of a VAE as networks from tensors to tensors, which need no Pyro to run.

.. math:: \text{encoder}: x \mapsto \bigl(\mathbb{E}_q[z|x],\ \mathrm{sd}_q[z|x]\bigr), \qquad
          \text{decoder}: z \mapsto \mathbb{E}_p[x|z] .
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Decoder", "Encoder", "Network"]


class Network(nn.Module):
    """A network from one tensor to one or more, with the names that a file gives to itself and to these."""

    title: str
    argument: str
    outputs: tuple[str, ...]


class Encoder(Network):
    """The encoder: x ``(B, *data_shape)`` to the means and the standard deviations of q(z|x), ``(B, latent_dim)``."""

    title, argument = "encoder", "x"
    outputs = ("mean", "scale")

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q = self.posterior(x)
        return q.mean, q.stddev


class Decoder(Network):
    """The decoder: z ``(B, latent_dim)`` to the mean of p(x|z), ``(B, *data_shape)``."""

    title, argument = "decoder", "z"
    outputs = ("mean",)

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.likelihood = likelihood

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        return (self.likelihood(z).mean,)
