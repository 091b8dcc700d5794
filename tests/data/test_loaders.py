"""Results with a row for each datum warn of a loader that shuffles or drops data, once, and of no other."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import pyro_vae

X = torch.tensor([[float(bit) for bit in f"{n:05b}"] for n in range(23)])
QUICK = {"num_particles": 3, "seed": 0}


class Rows(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Backwards(Sampler):
    def __iter__(self):
        return iter(range(22, -1, -1))

    def __len__(self):
        return 23


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return pyro_vae.VAE((5,), 2, (4,))


def warnings_of(function):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function()
    return [str(each.message) for each in found]


CALLS = {
    "encode": lambda vae, data: vae.encode(data),
    "reconstruct": lambda vae, data: vae.reconstruct(data),
    "log_likelihood": lambda vae, data: pyro_vae.log_likelihood(vae.model, vae.guide, data, **QUICK),
    "score": lambda vae, data: pyro_vae.score(vae.model, vae.guide, data, **QUICK),
    "ais": lambda vae, data: pyro_vae.ais(vae.model, vae.guide, data, num_temperatures=2, num_chains=2, seed=0),
    "posterior_means": lambda vae, data: pyro_vae.diagnostics.activity.posterior_means(vae.guide, data),
    "evaluate": lambda vae, data: pyro_vae.evaluate(
        vae.model, vae.guide, data, num_particles=20, num_refined=0, annealed=False, progress=False
    ),
}


@pytest.mark.parametrize("call", list(CALLS))
class TestResultsOfEachDatum:
    def test_one_warning_of_a_loader_that_shuffles(self, vae, call):
        (found,) = warnings_of(lambda: CALLS[call](vae, DataLoader(Rows(), 5, shuffle=True)))
        assert "found a DataLoader that draws its order at random (RandomSampler), expected all data in" in found

    def test_one_warning_of_data_that_are_left_out(self, vae, call):
        (found,) = warnings_of(lambda: CALLS[call](vae, DataLoader(Rows(), 5, drop_last=True)))
        assert "found a DataLoader that leaves out 3 data (drop_last=True), expected all data in their order" in found

    def test_none_of_a_loader_in_order(self, vae, call):
        assert warnings_of(lambda: CALLS[call](vae, DataLoader(Rows(), 5))) == []


class TestSamplers:
    def test_which_are_warned_of(self, vae):
        for sampler in (RandomSampler(X), SubsetRandomSampler(range(23)), WeightedRandomSampler(torch.ones(23), 23)):
            for loader in (
                DataLoader(Rows(), 5, sampler=sampler),
                DataLoader(Rows(), batch_sampler=BatchSampler(sampler, 5, False)),
            ):
                (found,) = warnings_of(lambda loader=loader: vae.encode(loader))
                assert f"draws its order at random ({type(sampler).__name__})" in found
        both = DataLoader(Rows(), batch_sampler=BatchSampler(RandomSampler(X), 5, True))
        (found,) = warnings_of(lambda: vae.encode(both))
        assert "draws its order at random (RandomSampler) and leaves out 3 data (drop_last=True)" in found

    def test_which_are_not(self, vae):
        for loader in (
            DataLoader(Rows(), 5, sampler=Backwards()),
            DataLoader(Rows(), 23, drop_last=True),
            DataLoader(Stream(), 5),
            DataLoader(Stream(), 5, drop_last=True),
            DataLoader(Rows(), batch_size=None, sampler=[slice(0, 12), slice(12, 23)]),
        ):
            assert warnings_of(lambda loader=loader: vae.encode(loader)) == []


def test_training_validation_and_means_are_not_warned_of(vae):
    def run():
        shuffled = DataLoader(Rows(), 5, shuffle=True, drop_last=True)
        pyro_vae.fit(vae.model, vae.guide, shuffled, valid=shuffled, num_epochs=1, progress=False)
        pyro_vae.evaluation.mean_bound(vae.model, vae.guide, shuffled, pyro_vae.ELBO())
        pyro_vae.score(vae.model, vae.guide, X, correction="typicality", reference=shuffled, **QUICK)

    assert warnings_of(run) == []
