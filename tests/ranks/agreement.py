"""What processes of a group do in the tests of that they make the same calls, and go on alike."""

from __future__ import annotations

import random
import warnings

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

import pyro_vae
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.shared_work import SharedWork
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.runtime.ranks import ranks
from tests.ranks.given_noise import B, D, GivenNoise, N, Rows, data, fit
from tests.ranks.scenarios import error_of


class OwnOrder(Sampler):
    """An order that each rank draws from a generator of its own."""

    def __len__(self):
        return N

    def __iter__(self):
        return iter(random.Random(ranks().rank).sample(range(N), N))


def _vae():
    torch.manual_seed(5)
    return pyro_vae.VAE(data_shape=(D,), latent_dim=2, hidden_dims=(8,), likelihood="gaussian").double()


def different_calls():
    """Make calls that are not the same on all ranks; return what is said of each, or nothing."""
    rank, pair, (x, noise) = ranks().rank, GivenNoise(), data()
    vae = _vae()
    other = pyro_vae.VAE(data_shape=(D,), latent_dim=2, hidden_dims=(8 + rank,), likelihood="gaussian").double()

    def score(of=vae, y=x, **options):
        return pyro_vae.log_likelihood(of.model, of.guide, y, **{"num_particles": 20, "seed": 1} | options)

    return {
        "data": error_of(lambda: fit(pair, (x + rank, noise))),
        "num_data": error_of(lambda: fit(pair, data(N - 20 * rank))),
        "valid": error_of(lambda: fit(pair, valid=data(20 + rank))),
        "lr": error_of(lambda: fit(pair, lr=0.01 * (1 + rank))),
        "clip_norm": error_of(lambda: fit(pair, clip_norm=1.0 + rank)),
        "num_epochs": error_of(lambda: fit(pair, num_epochs=2 + rank)),
        "data: found a sampler": error_of(lambda: fit(pair, DataLoader(Rows(), B, sampler=OwnOrder()))),
        "data: found (50": error_of(lambda: score(y=x + rank)),
        "num_particles": error_of(lambda: score(num_particles=20 + rank)),
        "weights": error_of(lambda: score(other)),
    }


class Part(Dataset):
    """The data from a place on, that of this rank, which are drawn anew at each reading if they are to be."""

    def __init__(self, first, is_drawn=False):
        self.first, self.is_drawn = first, is_drawn

    def __len__(self):
        return 20

    def __getitem__(self, index):
        x, noise = (each[self.first + index] for each in data())
        return (x + torch.randn(D), noise) if self.is_drawn else (x, noise)


class PartStream(IterableDataset):
    """Some of the data, in order."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def __iter__(self):
        yield from zip(*(each[self.first : self.last] for each in data()), strict=True)


def different_data():
    """Read other data on each rank, or as many as no other; return what is said of it, or nothing."""
    rank, pair, vae = ranks().rank, GivenNoise(), _vae()
    short, split = PartStream(0, 40 - 16 * rank), PartStream(0 + 10 * rank, 20 + 10 * rank)

    def train(x, **options):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            error = error_of(lambda: fit(pair, x, **options))
        return error, [str(each.message) for each in found if "another first batch" in str(each.message)]

    def score(x):
        return error_of(lambda: pyro_vae.log_likelihood(vae.model, vae.guide, x, 10, seed=0)), []

    return {
        "shorter": train(DataLoader(short, B)),
        "shorter valid": train(data(), valid=DataLoader(short, B)),
        "shorter score": score(DataLoader(_First(short), B)),
        "part": train(Part(10 * rank)),
        "part with workers": train(DataLoader(Part(10 * rank), B, num_workers=1)),
        "part of items that are batches": train(DataLoader(_Whole(rank), batch_size=None)),
        "drawn": train(Part(10 * rank, is_drawn=True)),
        "split": train(DataLoader(split, B)),
        "same": train(DataLoader(PartStream(0, 20), B), valid=Part(0)),
    }


class _First(IterableDataset):
    """The first entries of a stream's data."""

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        return (x for x, _ in self.stream)


class _Whole(Dataset):
    """Whole batches, of other data on each rank."""

    def __init__(self, rank):
        self.rank = rank

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return tuple(each[8 * index + self.rank : 8 * index + 8 + self.rank] for each in data())


class Draws(Dataset):
    """Data that are drawn as they are read."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return torch.rand(D).double()


def generators():
    """Draw after calls without a seed, and look at what workers draw."""
    vae = _vae()
    pair, x, seen = (vae.model, vae.guide), data()[0], {}
    calls = {
        "log_likelihood": lambda: pyro_vae.log_likelihood(*pair, x, 20),
        "mean_bound": lambda: mean_bound(*pair, x, pyro_vae.ELBO(), batch_size=B),
        "fit": lambda: pyro_vae.fit(*pair, x, num_epochs=1, batch_size=B, progress=False),
    }
    for name, call in calls.items():
        torch.manual_seed(0)
        call()
        seen[name] = torch.rand(()).item()
    batches = as_batches(DataLoader(Draws(), B, num_workers=1), B, device="cpu", dtype=x.dtype, shuffle=False)
    torch.manual_seed(0)
    return seen | {"workers": [batch.sum().item() for batch in batches.shared(ranks())]}


def least_size():
    """Choose a size by rank, as by the memory of its device."""
    batches = as_batches(data()[0], B, device="cpu", dtype=torch.float64, shuffle=False)
    return SharedWork(batches, 0).least(10 + ranks().rank)
