"""Programs as users write them, with nothing of the package inside, and the packaged ones that tests go over."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import pyro_vae
from pyro_vae import (
    HVAE,
    MLP,
    VAE,
    Bernoulli,
    ConvLadderVAE,
    DiagonalNormal,
    Gaussian,
    ImageDecoder,
    ImageEncoder,
    LadderVAE,
    StandardNormal,
    training,
)

IMAGE = (4, 4)
LATENT_DIM = 2


class TutorialModel(PyroModule):
    """Pyro's VAE tutorial: a plain decoder with batch normalisation, and the flattened image observed."""

    def __init__(self, num_pixels: int = 16, latent_dim: int = LATENT_DIM) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 6), nn.BatchNorm1d(6), nn.Softplus(), nn.Linear(6, num_pixels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(x.shape[0], self.latent_dim)
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            probs = self.decoder(z.flatten(0, -2)).reshape(
                *z.shape[:-1], -1
            )  # batch normalisation wants two dimensions
            pyro.sample("x", dist.Bernoulli(probs).to_event(1), obs=x.reshape(x.shape[0], -1))


class TutorialGuide(PyroModule):
    def __init__(self, num_pixels: int = 16, latent_dim: int = LATENT_DIM) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_pixels, 6)
        self.loc, self.log_scale = nn.Linear(6, latent_dim), nn.Linear(6, latent_dim)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            h = nn.functional.softplus(self.hidden(x.reshape(x.shape[0], -1)))
            pyro.sample("z", dist.Normal(self.loc(h), self.log_scale(h).exp()).to_event(1))


class HierarchyModel(PyroModule):
    """Two layers of latents: z2 is the top, z1 next to the data."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.decoder = nn.Linear(2, 3), nn.Linear(3, 16)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            zeros = x.new_zeros(2)
            z2 = pyro.sample("z2", dist.Normal(zeros, zeros + 1).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.down(z2), x.new_ones(3)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z1).unflatten(-1, IMAGE)).to_event(2), obs=x)


class HierarchyGuide(PyroModule):
    """Bottom up: z1 from the data, then z2 from z1."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(16, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            loc, raw = self.lower(x.flatten(1)).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, raw.exp()).to_event(1))
            loc, raw = self.upper(z1).chunk(2, -1)
            pyro.sample("z2", dist.Normal(loc, raw.exp()).to_event(1))


def likelihood(name: str, network: str) -> nn.Module:
    """A likelihood by name, ``"bernoulli"`` or a Gaussian by its scale, on an MLP or a convolutional decoder."""
    num_outputs = 2 if name == "decoder" else 1
    if network == "mlp":
        decoder = MLP(LATENT_DIM, (2, *IMAGE) if num_outputs == 2 else IMAGE, (5,))
    else:
        decoder = ImageDecoder(LATENT_DIM, IMAGE, (3, 2), num_outputs=num_outputs)
    if name == "bernoulli":
        return Bernoulli(decoder, IMAGE)
    return Gaussian(decoder, IMAGE, scale=name, mean="sigmoid", initial_scale=0.5)


LIKELIHOODS = ("bernoulli", "fixed", "shared", "per_pixel", "decoder")
NETWORKS = ("mlp", "convolutional")


def packaged(name: str, network: str) -> VAE:
    """A VAE built from its parts."""
    make_encoder = MLP if network == "mlp" else ImageEncoder
    encoder = make_encoder(IMAGE, (2, LATENT_DIM), (5,))
    return VAE(
        prior=StandardNormal(LATENT_DIM), likelihood=likelihood(name, network), posterior=DiagonalNormal(encoder)
    )


def vae() -> VAE:
    """The smallest VAE of images."""
    return pyro_vae.VAE(IMAGE, LATENT_DIM, (5,))


PAIRS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "tutorial": lambda: (TutorialModel(), TutorialGuide()),
    "hierarchy": lambda: (HierarchyModel(), HierarchyGuide()),
}
# With each objective; other parts meet fewer objectives, in tests/programs/test_composition.py.
for _likelihood, _network in (
    ("bernoulli", "mlp"),
    ("bernoulli", "convolutional"),
    ("per_pixel", "mlp"),
    ("decoder", "convolutional"),
):
    PAIRS[f"{_likelihood}-{_network}"] = lambda n=_likelihood, w=_network: (
        (pair := packaged(n, w)).model,
        pair.guide,
    )


def conv_ladder() -> ConvLadderVAE:
    """Two layers of 4x4 images: a 2x2 latent image, and a single pixel above it.

    The constant at the top is not at zero here, where it starts and where what acts on it has no gradient yet.
    """
    program = ConvLadderVAE(IMAGE, num_layers=(1, 1), latent_channels=(1, 2), channels=(4, 4))
    nn.init.normal_(program.model.way_down.start)
    return program


HIERARCHIES: dict[str, Callable[[], HVAE | LadderVAE | ConvLadderVAE]] = {
    "hvae": lambda: HVAE(IMAGE, (3, 2), (5,)),
    "hvae-top-down": lambda: HVAE(IMAGE, (3, 2), (5,), guide="top-down"),
    "ladder": lambda: LadderVAE(IMAGE, (4, 3, 2), (5,)),
    "ladder-batch-norm": lambda: LadderVAE(IMAGE, (3, 2), (5,), batch_norm=True),
    "conv-ladder": conv_ladder,
}
for _name, _make in HIERARCHIES.items():
    PAIRS[_name] = lambda m=_make: ((program := m()).model, program.guide)


def bits(num_data: int, seed: int = 0) -> Tensor:
    """Black and white images with structure: each a noisy copy of one of two halves."""
    random = torch.Generator().manual_seed(seed)
    upper = torch.rand(num_data, 1, 1, generator=random) < 0.5
    rows = torch.arange(4)[:, None] < 2
    probs = torch.where(upper == rows, 0.9, 0.1).expand(num_data, *IMAGE)
    return torch.bernoulli(probs, generator=random)


def perturbed(program):
    """A program whose every float differs from where any constructor starts."""
    with torch.no_grad():
        for tensor in program.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return program


def weights(*modules: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {f"{i}.{n}": t.clone() for i, module in enumerate(modules) for n, t in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two such copies are equal, bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def fit(program: VAE, data=None, **options) -> training.History:
    """Three epochs of four steps on ``bits(24)``, unless said otherwise."""
    data = bits(24) if data is None else data
    options = {"num_epochs": 3, "batch_size": 6, "lr": 0.01, "seed": 0, "progress": False} | options
    return training.fit(program.model, program.guide, data, **options)


class Stream(IterableDataset):
    """Data without a length."""

    def __iter__(self):
        return iter(bits(24))


def refused(model, guide, data, error, message, folder: Path, **options):
    """``fit`` raises before it changes a weight, a module's mode, a generator or a file."""
    before, modes = weights(model, guide), [m.training for p in (model, guide) for m in p.modules()]
    generator = torch.get_rng_state()
    options = {"num_epochs": 1, "batch_size": 5, "seed": 0, "progress": False, "checkpoint": folder / "run"} | options
    with pytest.raises(error) as caught:
        training.fit(model, guide, data, **options)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert same(weights(model, guide), before)
    assert [m.training for p in (model, guide) for m in p.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(folder.iterdir()) == []
    return caught.value


def named(objective: pyro.infer.ELBO) -> str:
    """The name of a test's parameter, the same in every process (Pyro's objects print their address)."""
    return repr(objective) if isinstance(objective, pyro_vae.Objective) else type(objective).__name__


def seeded(call, *args):
    """What a call returns that draws from one and the same seed."""
    torch.manual_seed(3)
    return call(*args)


def traced(graph, inputs):
    """In place of a compiler: the graph as it is."""
    return graph


def check_close(found, expected, **tolerance):
    """Hold dictionaries of tensors, or of ``None``, against each other."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
