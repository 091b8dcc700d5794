"""Programs nobody here wrote: four of Pyro's tutorials, re-typed at toy size with their structure and their idioms.

Each is a plain ``nn.Module`` with methods ``model`` and ``guide``, registers its networks with ``pyro.module`` and
knows nothing of this package. Two things differ from the tutorials, because they must: the plates are told their size,
and networks and indexing leave room for a dimension of particles on the left (``test_tutorials.py`` shows what happens
otherwise). The method ``by_hand`` writes the terms of the log weight out: log p(x|z), log p(z) and log q(z|x).
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, distributions, nn

BATCH, PIXELS, LATENT, CLASSES, STEPS, NOTES = 6, 6, 2, 3, 4, 3
Latents = dict[str, Tensor]
Terms = tuple[Tensor, Tensor, Tensor]  # each (K, B)


class Network(nn.Module):
    """An MLP of the concatenation of its arguments, whose leading dimensions broadcast."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(num_inputs, 5), nn.Linear(5, num_outputs)

    def forward(self, *inputs: Tensor) -> Any:
        shape = torch.broadcast_shapes(*(value.shape[:-1] for value in inputs))
        joined = torch.cat([value.expand(*shape, -1) for value in inputs], -1)
        return self.output(torch.tanh(self.hidden(joined)))


class NormalNetwork(Network):
    """The location and the scale of a normal; guides are wider than models, so that no weight is without bound."""

    def __init__(self, num_inputs: int, least_scale: float) -> None:
        super().__init__(num_inputs, 2 * LATENT)
        self.least_scale = least_scale

    def forward(self, *inputs: Tensor) -> Any:
        loc, raw = (0.5 * super().forward(*inputs)).chunk(2, -1)
        return loc, nn.functional.softplus(raw) + self.least_scale


def normal(z: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    return distributions.Normal(loc, scale).log_prob(z).sum(-1)


def coins(x: Tensor, logits: Tensor) -> Tensor:
    return distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)


class VAE(nn.Module):
    """The variational autoencoder; its sites are called ``latent`` and ``obs``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = NormalNetwork(PIXELS, 0.7), Network(LATENT, PIXELS)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(x.shape[0], LATENT), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(torch.sigmoid(self.decoder(z))).to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x.flatten(1))
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))

    def by_hand(self, z: Latents, x: Tensor) -> Terms:
        latent = z["latent"]
        log_x = coins(x.flatten(1), self.decoder(latent))
        return log_x, normal(latent, 0.0, 1.0), normal(latent, *self.encoder(x.flatten(1)))


class SSVAE(nn.Module):
    """The semi-supervised VAE, M2: a label y, one-hot, which is given or drawn by the guide, and a style z."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.encoder_y, self.encoder_z = Network(PIXELS, CLASSES), NormalNetwork(PIXELS + CLASSES, 0.7)
        self.decoder, self.scale = Network(LATENT + CLASSES, PIXELS), scale

    def model(self, xs: Tensor, ys: Tensor | None = None) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(xs)), poutine.scale(scale=self.scale):
            zs = pyro.sample("z", dist.Normal(xs.new_zeros(len(xs), LATENT), 1.0).to_event(1))
            ys = pyro.sample("y", dist.OneHotCategorical(xs.new_ones(len(xs), CLASSES) / CLASSES), obs=ys)
            pyro.sample("x", dist.Bernoulli(torch.sigmoid(self.decoder(zs, ys))).to_event(1), obs=xs)

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        with pyro.plate("data", len(xs)), poutine.scale(scale=self.scale):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs).softmax(-1)))
            loc, scale = self.encoder_z(xs, ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def model_classify(self, xs: Tensor, ys: Tensor) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(xs)), poutine.scale(scale=50.0):
            pyro.sample("y_aux", dist.OneHotCategorical(self.encoder_y(xs).softmax(-1)), obs=ys)

    def by_hand(self, z: Latents, xs: Tensor, ys: Tensor | None = None) -> Terms:
        style, y = z["z"], z["y"] if ys is None else ys
        log_x, log_y = coins(xs, self.decoder(style, y)), -math.log(CLASSES)
        log_q = normal(style, *self.encoder_z(xs, y))
        if ys is not None:
            return log_x + log_y, normal(style, 0.0, 1.0), log_q
        return log_x, normal(style, 0.0, 1.0) + log_y, log_q + (y * self.encoder_y(xs).log_softmax(-1)).sum(-1)


class CVAE(nn.Module):
    """The conditional VAE: of the image ``ys`` only what ``xs`` hides, by -1, is predicted, from what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.baseline_net = Network(PIXELS, PIXELS)  # trained beforehand
        self.prior_net, self.recognition_net = NormalNetwork(PIXELS, 0.1), NormalNetwork(PIXELS, 0.7)
        self.generation_net = Network(LATENT, PIXELS)

    def model(self, xs: Tensor, ys: Tensor | None = None) -> None:
        pyro.module("generation_net", self)
        with pyro.plate("data", len(xs)):
            y_hat = torch.sigmoid(self.baseline_net(xs)).detach()
            loc, scale = self.prior_net(torch.where(xs == -1, y_hat, xs))
            zs = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            probs = torch.sigmoid(self.generation_net(zs))
            if ys is None:
                pyro.deterministic("y", probs.detach())
            else:
                hidden = self.hidden(probs, xs)
                pyro.sample("y", dist.Bernoulli(hidden).to_event(1), obs=ys[xs == -1].view(len(xs), -1))

    def hidden(self, probs: Tensor, xs: Tensor) -> Tensor:
        return probs[..., xs == -1].unflatten(-1, (len(xs), -1))

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        with pyro.plate("data", len(xs)):
            loc, scale = self.recognition_net(xs if ys is None else torch.where(xs == -1, ys, xs))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def by_hand(self, z: Latents, xs: Tensor, ys: Tensor) -> Terms:
        shown = torch.where(xs == -1, torch.sigmoid(self.baseline_net(xs)).detach(), xs)
        pixels = distributions.Bernoulli(logits=self.generation_net(z["z"])).log_prob(ys) * (xs == -1)
        return pixels.sum(-1), normal(z["z"], *self.prior_net(shown)), normal(z["z"], *self.recognition_net(ys))


class DMM(nn.Module):
    """The deep Markov model: a latent and an observed site each time step, masked out where a sequence has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.emitter, self.trans = Network(LATENT, NOTES), NormalNetwork(LATENT, 0.1)
        self.rnn, self.combiner = nn.RNN(NOTES, 4, batch_first=True), NormalNetwork(LATENT + 4, 0.7)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(LATENT)), nn.Parameter(torch.zeros(LATENT))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, 4))

    def model(self, mini_batch: Tensor, backwards: Tensor, mask: Tensor, lengths: Tensor, annealing_factor=1.0) -> None:
        pyro.module("dmm", self)
        z = self.z_0.expand(len(mini_batch), LATENT)
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                loc, scale = self.trans(z)
                with poutine.scale(scale=annealing_factor):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).mask(mask[:, t - 1 : t]).to_event(1))
                notes = dist.Bernoulli(torch.sigmoid(self.emitter(z))).mask(mask[:, t - 1 : t]).to_event(1)
                pyro.sample(f"obs_x_{t}", notes, obs=mini_batch[:, t - 1])

    def guide(self, mini_batch: Tensor, backwards: Tensor, mask: Tensor, lengths: Tensor, annealing_factor=1.0) -> None:
        pyro.module("dmm", self)
        states, _ = self.rnn(backwards, self.h_0.expand(1, len(mini_batch), 4).contiguous())
        states, z = reverse(states, lengths), self.z_q_0.expand(len(mini_batch), LATENT)
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                loc, scale = self.combiner(z, states[:, t - 1])
                with poutine.scale(scale=annealing_factor):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).mask(mask[:, t - 1 : t]).to_event(1))

    def by_hand(self, z: Latents, mini_batch: Tensor, *args: Tensor) -> Terms:
        """Each sequence alone and as long as it is, so there is no mask; then stacked."""
        sequences = []
        for b, length in enumerate(args[-1].tolist()):
            states, _ = self.rnn(mini_batch[b, :length].flip(0)[None], self.h_0)  # (1, T, 4)
            latents = [z[f"z_{t + 1}"][..., b, :] for t in range(length)]  # each (K, L)
            log_x = sum(coins(mini_batch[b, t], self.emitter(latents[t])) for t in range(length))
            log_p = sum(map(normal, latents, *zip(*map(self.trans, [self.z_0, *latents[:-1]]), strict=True)))
            q = map(self.combiner, [self.z_q_0, *latents[:-1]], states[0].flip(0))
            log_q = sum(map(normal, latents, *zip(*q, strict=True)))
            sequences.append(torch.stack([log_x, log_p, log_q]))
        return torch.stack(sequences, -1).unbind()


def reverse(sequences: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence ``(B, T, D)`` backwards, then padded with zeros."""
    index = lengths[:, None] - 1 - torch.arange(sequences.size(1))  # (B, T)
    return sequences[torch.arange(len(lengths))[:, None], index] * (index >= 0)[..., None]
