"""What processes of a group do in the tests of that they make the same calls, and go on alike."""

from __future__ import annotations

import random
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset

import pyro_vae
from pyro_vae.data.batch import Arguments
from pyro_vae.data.conversion import as_batches
from pyro_vae.data.opening import Opened
from pyro_vae.data.shared_work import SharedWork
from pyro_vae.data.storages import Sliced
from pyro_vae.data.stored import Stored
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


class PartStream(IterableDataset):
    """Some of the data, in order."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def __iter__(self):
        yield from zip(*(each[self.first : self.last] for each in data()), strict=True)


def different_data(folder):
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

    x, noise = data()
    shifted, path = x + rank, Path(folder) / f"{rank}.npy"
    np.save(path, shifted.numpy())
    return {
        "shorter": train(DataLoader(short, B)),
        "shorter valid": train(data(), valid=DataLoader(short, B)),
        "shorter score": score(DataLoader(_First(short), B)),
        "tensors": train(DataLoader(TensorDataset(shifted, noise), B, num_workers=1)),
        "rows": train(DataLoader(Subset(Rows(), range(rank, 20 + rank)), B)),
        "disk": train(pyro_vae.data.Stored((path, noise), window_bytes=800, num_workers=1)),
        "sparse": score(csr_array(shifted.numpy())),
        "drawn": score(DataLoader(Draws(), B)),
        "split": train(DataLoader(split, B)),
        "same": train(DataLoader(PartStream(0, 20), B), valid=DataLoader(TensorDataset(x, noise), B)),
    }


class _First(IterableDataset):
    """The first entries of a stream's data."""

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        return (x for x, _ in self.stream)


class Draws(Dataset):
    """Data that are drawn as they are read, some of them from Python's generator."""

    has_own = True

    def __len__(self):
        return N

    def __getitem__(self, index):
        return torch.rand(D, dtype=torch.float64) + self.has_own * random.random()


class DrawnStream(IterableDataset):
    """Data in an order that the stream draws."""

    def __iter__(self):
        return iter(data()[0][torch.randperm(N)])


def drawn_stream(folder):
    """Score by a stream, train on one, and resume, where generators differ between ranks before each call."""
    vae, kept = _vae(), []
    torch.manual_seed(ranks().rank)
    score = pyro_vae.log_likelihood(vae.model, vae.guide, DataLoader(DrawnStream(), B), 10, seed=0)
    for name, num_epochs in ("whole", 2), ("parts", 1), ("parts", 2):
        torch.manual_seed(10 + ranks().rank)
        vae, path = _vae(), Path(folder) / f"{name} of a stream-{ranks().size}"
        options = {"num_epochs": num_epochs, "checkpoint": path, "resume": len(kept) == 2}
        fit(vae, DataLoader(DrawnStream(), B), **options)
        kept.append({name: value.clone() for name, value in vae.model.state_dict().items()})
    return {"score": score.values, "whole": kept[0], "resumed": kept[2]}


def orders():
    """Score by, and validate on, loaders whose order each rank would draw otherwise; with seeds of each rank's own."""
    rank, pair, vae = ranks().rank, GivenNoise(), _vae()

    def loader(**options):
        torch.manual_seed(20 + rank)
        return DataLoader(Rows(), B, **options)

    def own():
        return loader(shuffle=True, generator=torch.Generator().manual_seed(rank))

    def score(x, of=pair, seed=rank):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="x: found a DataLoader that draws its order")  # which is meant
            return pyro_vae.log_likelihood(of.model, of.guide, x, 10, batch_size=B, seed=seed).values

    def bound(x):
        return mean_bound(pair.model, pair.guide, x, pyro_vae.ELBO(), batch_size=B, seed=rank)

    def valid(x):
        return fit(GivenNoise(), num_epochs=1, valid=x).records[0]["valid_bound"]

    found = {
        "scores": [score(loader(shuffle=True)), score(own()), score(loader(shuffle=True, num_workers=1))],
        "bounds": [bound(loader(shuffle=True)), bound(own())],
        "valid": [valid(loader(shuffle=True)), valid(own())],
        "refused": [error_of(partial(each, loader(sampler=OwnOrder()))) for each in (score, bound)],
    }
    decoded = Stored(Opened(Arguments(Sliced(data()[0].numpy(), "the array", num_workers=2)), "the array"))
    found["workers"] = as_batches(decoded, B, device="cpu", dtype=torch.float64, shuffle=False)._source.num_workers
    torch.manual_seed(30 + rank)
    x, programs = data()[0], (vae.model, vae.guide)
    diagnosis = pyro_vae.diagnose(*programs, x, seed=rank)
    evaluation = pyro_vae.evaluate(
        *programs, x, num_particles=10, num_refined=0, annealed=False, progress=False, seed=rank
    )  # fmt: skip
    found["seeds"] = [
        *(score(x, vae, seed) for seed in (rank, None)),
        pyro_vae.ais(*programs, x[:5], 2, 3, seed=rank).values,
    ]
    return found | {"figures": [diagnosis.elbo, *(figure.mean for figure in evaluation.figures.values())]}


class Noisy(GivenNoise):
    """A pair that keeps what it is trained on."""

    def __init__(self):
        super().__init__(is_given=False)
        self.seen = []

    def guide(self, x):
        if self.training and torch.is_grad_enabled():
            self.seen += x.flatten().tolist()
        super().guide(x, x.new_zeros(2))

    def model(self, x):
        super().model(x, x)


def noise():
    """Train for two epochs on data that are drawn as they are read; return all that was drawn."""
    pair, drawn = Noisy(), Draws()
    drawn.has_own = False
    fit(pair, DataLoader(drawn, B, shuffle=True), num_epochs=2)
    return pair.seen


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
