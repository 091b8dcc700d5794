"""A pair whose draws come with the data, and data of every form, to train on in one process or in many."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import pyro_vae

N, B, D = 50, 8, 3  # the last batch has two data: with three ranks, one of them has none


class GivenNoise(nn.Module):
    """A pair whose draws come with the data, so that it does the same however these are shared."""

    def __init__(self, normalised=False, is_given=True):
        super().__init__()
        self.is_given = is_given
        torch.manual_seed(4)
        self.encoder = nn.Linear(D, 4, bias=not normalised).double()  # which normalisation would take out again
        self.decoder = nn.Linear(2, D).double()
        self.norm = nn.BatchNorm1d(4).double() if normalised else nn.Identity()
        self.at_step = {}  # the number of a gradient -> what to do then; None counts none
        self.num_steps = 0

    def model(self, x, noise):
        pyro.module("pair", self)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x)

    def guide(self, x, noise):
        pyro.module("pair", self)
        if self.at_step is not None and torch.is_grad_enabled() and self.training:
            self.num_steps += 1
            self.at_step.get(self.num_steps, lambda: None)()
        with pyro.plate("data", len(x), dim=-1):
            loc, scale = self.norm(self.encoder(x)).chunk(2, -1)
            q = dist.Normal(loc, nn.functional.softplus(scale) + 0.1).to_event(1)
            z = q.base_dist.loc + q.base_dist.scale * noise
            given = dist.Delta(z, log_density=q.log_prob(z), event_dim=1)
            pyro.sample("z", given if self.is_given else q)


def data(num=N):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, D, generator=generator).double(), torch.randn(num, 2, generator=generator).double()


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*data(), strict=True)


class Rows(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return tuple(each[index] for each in data())


FORMS = {
    "arrays": data,
    "a data set": Rows,
    "a loader": lambda: DataLoader(Rows(), B, shuffle=True, generator=torch.Generator().manual_seed(9)),
    "a stream": lambda: DataLoader(Stream(), B),
}


def fit(pair, x=None, **options):
    options = {"num_epochs": 3, "batch_size": B, "lr": 0.01, "seed": 1, "progress": False} | options
    return pyro_vae.fit(pair.model, pair.guide, data() if x is None else x, **options)


def result(pair, history):
    records = [{k: v for k, v in record.items() if k != "seconds" and v is not None} for record in history.records]
    return {"weights": {k: v.clone() for k, v in pair.state_dict().items()}, "records": records}
