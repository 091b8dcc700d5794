"""Training and scoring of programs with latents of all data at once: each counts once in a pass over the data."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from pyro_vae import (
    ELBO,
    IWAE,
    ProgramError,
    ReweightedWakeSleep,
    fit,
)
from pyro_vae.compilation import compiled
from pyro_vae.evaluation.bounds import mean_bound
from tests.support.global_latents import X, exact_elbo, pair
from tests.support.programs import traced

OPTIONS = {"batch_size": 2, "progress": False, "seed": 0}
N = len(X)


class FixedNoise(nn.Module):
    """The guide with W at its mean and z at its mean: the loss has no noise and its gradient a closed form."""

    def __init__(self, guide: nn.Module) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, x):
        pyro.module("guide", self.guide)
        w = pyro.sample("w", dist.Delta(self.guide.loc))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta((x + w) / 2 + self.guide.shift))


def loss_of_all(guide: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Minus the mean over ``rows`` of log p(x, z | W), less log p(W) / N, at the means."""
    z = (rows + guide.loc) / 2 + guide.shift
    local = dist.Normal(guide.loc, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(rows)
    return -local.mean() - dist.Normal(0.0, 1.0).log_prob(guide.loc) / N


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    "objective",
    [ELBO(), *(IWAE(2, vectorize_particles=way) for way in (True, "repeat", False)), Trace_ELBO()],
    ids=["elbo", "iwae", "iwae repeated", "iwae one by one", "pyro"],
)
def test_each_step_weighs_the_global_term_by_its_batch(objective, compile, monkeypatch):
    """Batches of 4 and of the 2 that are left, by gradient descent: the same weights as by hand."""
    if compile and isinstance(objective, Trace_ELBO):
        pytest.skip("no objective of the package")
    if objective.vectorize_particles is not True:  # of one case, TorchInductor compiles the graph further
        monkeypatch.setattr(compiled, "inductor", traced)
    torch.manual_seed(0)
    model, guide = pair()
    by_hand = pair()[1]
    order, rates = [], torch.optim.SGD(by_hand.parameters(), lr=0.1)
    fitted = FixedNoise(guide)

    def sgd(parameters, lr):
        return torch.optim.SGD(parameters, lr=0.1)

    class Recorded(torch.utils.data.Dataset):
        def __len__(self):
            return N

        def __getitem__(self, index):
            order.append(index)
            return X[index]

    loader = DataLoader(Recorded(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="no gradient of 1 parameters"):  # the scale of W has none
        history = fit(
            model,
            fitted,
            loader,
            objective=objective,
            optimizer=sgd,
            num_epochs=1,
            seed=0,
            progress=False,
            compile=compile,
        )
    for rows in (X[order[:4]], X[order[4:6]]):
        rates.zero_grad()
        loss_of_all(by_hand, rows).backward()
        rates.step()
    torch.testing.assert_close(guide.loc, by_hand.loc, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(guide.shift, by_hand.shift, rtol=1e-10, atol=1e-12)
    if not isinstance(objective, Trace_ELBO):
        assert isinstance(history.records[0]["global_term"], float)


def test_the_record_names_the_share_and_its_bounds_are_those_of_all_data():
    model, guide = pair()
    many = fit(model, guide, X, objective=ELBO(4), num_epochs=101, lr=1e-12, **OPTIONS).records  # it stays as it is
    bounds, shares = (torch.tensor([record[name] for record in many]) for name in ("train_bound", "global_term"))
    exact = exact_elbo(guide, X, N) / N
    kl = 0.5 * ((2 * guide.log_scale).exp() + guide.loc.square() - 1) - guide.log_scale
    for found, expected in ((bounds, exact), (shares, -kl / N)):  # 5 standard errors: a chance of 6e-7
        error = found.std() / len(found) ** 0.5
        assert (found.mean() - expected).abs() < 5 * error < 0.1


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(ELBO(8), id="elbo"),
        pytest.param(IWAE(4), id="iwae"),
        pytest.param(Trace_ELBO(4), id="pyro", marks=pytest.mark.cross),
    ],
)
def test_minibatches_find_the_posterior_of_all_data(objective):
    """N(Σ x / 8, 1/4); with the prior counted in each batch, the mean would be Σ x / 12 for batches of two."""
    model, guide = pair(shift=0.0)
    fit(model, guide, X, objective=objective, num_epochs=200, lr=lambda t: 0.01 * (1 - t), **OPTIONS)
    assert (guide.loc - X.sum() / 8).abs() < 0.07
    assert (guide.log_scale.exp() - 0.5).abs() < 0.05


def test_an_autoguide_of_a_global_latent():
    """Its two parameters are those of the posterior of W; z is summed out by hand."""

    def model(x):
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 2**0.5), obs=x)

    guide = AutoNormal(model)
    fit(model, guide, X, objective=ELBO(8), num_epochs=150, lr=lambda t: 0.02 * (1 - t), **OPTIONS)
    quantiles = guide.quantiles([0.5])["w"]
    assert abs(torch.as_tensor(quantiles).item() - X.sum().item() / 8) < 0.07


def test_mean_bound_is_that_of_all_data():
    """Over 1,500 draws for each batch, within 5 standard errors of the closed form."""
    model, guide = pair()
    found = torch.tensor([mean_bound(model, guide, X, ELBO(15), batch_size=2, seed=seed) for seed in range(100)])
    error = found.std() / len(found) ** 0.5
    assert (found.mean() - exact_elbo(guide, X, N) / N).abs() < 5 * error < 0.1


class TestPlates:
    """Of data along another dimension than the first: a bound is the mean over the members of the plate."""

    @staticmethod
    def model(x):
        with pyro.plate("data", x.shape[1]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([*z.shape, len(x)]).to_event(1), obs=x.T)

    @staticmethod
    def guide(x):
        loc = pyro.param("loc", x.new_zeros(()))
        with pyro.plate("data", x.shape[1]):
            pyro.sample("z", dist.Delta(loc))

    def test_of_all_data_and_of_the_batches_of_a_loader(self):
        x = torch.stack([X, -X, X / 2])  # 3 observations of 6 data
        bound = ELBO(2).bound(self.model, self.guide, x)
        assert bound.shape == (6,)
        pyro.clear_param_store()
        for data in (x, DataLoader([x], batch_size=None)):
            history = fit(self.model, self.guide, data, num_epochs=1, batch_size=3, seed=0, progress=False)
            assert history.records[0]["train_bound"] == pytest.approx(bound.mean().item(), rel=1e-6)  # sums in float32
            pyro.clear_param_store()

    def test_batches_that_cut_observations(self):
        with pytest.raises(
            ProgramError, match="^data: found the data plate 'data' of size 6 for batches of 2, cut along"
        ):
            fit(self.model, self.guide, torch.stack([X, -X, X / 2]), num_epochs=1, batch_size=2, progress=False)
        with pytest.raises(
            ProgramError, match="^data: found the data plate 'data' of size 6 for batches of 2, cut along"
        ):
            fit(self.model, self.guide, DataLoader(torch.stack([X, -X, X / 2]), 2), num_epochs=1, progress=False)


class TestRefusals:
    def test_a_stream_whose_length_is_not_known(self):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter(X)

        with pytest.raises(ProgramError, match="^site 'w': found outside the data plate, with data of unknown number"):
            fit(*pair(), DataLoader(Stream(), batch_size=2), num_epochs=1, progress=False)
        fit(*pair(N), DataLoader(Stream(), batch_size=2), num_epochs=1, progress=False)

    def test_wake_sleep_on_batches(self):
        with pytest.raises(ProgramError, match="^site 'w': found outside the data plate, which holds 2 of 6 data"):
            fit(*pair(), X, objective=ReweightedWakeSleep(2, guide_phase="wake"), num_epochs=1, **OPTIONS)

    def test_a_loader_whose_items_are_batches(self):
        """The length of its data set is the number of batches."""
        loader = DataLoader(list(X.split(2)), batch_size=None)
        for run in (lambda *args: fit(*args, num_epochs=1, progress=False), lambda *args: mean_bound(*args, ELBO())):
            with pytest.raises(ProgramError, match="^site 'w': found outside the data plate, with data of unknown num"):
                run(*pair(), loader)

    def test_batches_for_programs_without_a_plate(self):
        def model(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())).expand(len(x)), 1.0).to_event(1))

        x = X.float()
        with pytest.raises(ProgramError, match="^data: found 6 data in batches of 2, .*found no plate, expected one"):
            fit(model, guide, x, num_epochs=1, batch_size=2, progress=False)
        pyro.clear_param_store()
        fit(model, guide, x, num_epochs=1, batch_size=6, progress=False)
        assert pyro.param("loc") != 0
