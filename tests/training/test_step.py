"""The steps of fit: the rate, the schedule, the optimiser, clipping, and that none waits for the device."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE
from pyro_vae.training import decisions
from tests.support.programs import Stream, bits, fit, vae

X = bits(24)


class TestSteps:
    def learning_rates(self, lr, **options):
        used = []

        class Spy(torch.optim.SGD):
            def step(self, closure=None):
                used.append(self.param_groups[0]["lr"])
                return super().step(closure)

        history = fit(vae(), lr=lr, optimizer=Spy, **options)
        return used, [record["learning_rate"] for record in history.records]

    def test_a_callable_rate_is_asked_at_every_step_for_the_fraction_done(self):
        used, recorded = self.learning_rates(lambda fraction: 0.01 * (1 - fraction))
        assert used == pytest.approx([0.01 * (1 - step / 12) for step in range(12)])
        assert recorded == used[3::4]

    def test_data_without_a_length_advance_a_callable_rate_by_whole_epochs(self):
        used, _ = self.learning_rates(lambda fraction: 0.01 * (1 - fraction), data=Stream())
        assert used == pytest.approx([0.01 * (1 - epoch / 3) for epoch in range(3) for _ in range(4)])

    def test_a_torch_scheduler_steps_once_an_epoch(self):
        used, recorded = self.learning_rates(0.01, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5))
        assert used == [0.01] * 4 + [0.005] * 4 + [0.0025] * 4
        assert recorded == [0.01, 0.005, 0.0025]

    def test_the_optimizer_factory_gets_the_trainable_parameters_and_the_rate(self):
        got = {}

        def factory(parameters, lr):
            got.update(parameters=list(parameters), lr=lr)
            return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

        program = vae()
        frozen = next(program.posterior.parameters())
        frozen.requires_grad_(False)
        kept = frozen.clone()
        fit(program, optimizer=factory, lr=0.02)
        assert got["lr"] == 0.02
        assert set(map(id, got["parameters"])) == {id(p) for p in program.parameters() if p is not frozen}
        assert torch.equal(frozen, kept)

    @pytest.mark.parametrize("clip_norm", [None, 0.1])
    def test_clipping_bounds_the_global_norm_of_the_step(self, clip_norm):
        # Plain gradient descent with rate 1 moves the weights by the clipped gradient itself.
        program = vae()
        before = nn.utils.parameters_to_vector(program.parameters()).detach().clone()
        fit(program, batch_size=24, num_epochs=1, lr=1.0, optimizer=torch.optim.SGD, clip_norm=clip_norm)
        moved = (nn.utils.parameters_to_vector(program.parameters()) - before).norm().item()
        if clip_norm is None:
            assert moved > 0.5  # so there was something to clip
        else:
            assert moved == pytest.approx(clip_norm, rel=1e-3)

    def test_no_step_waits_for_the_device(self, monkeypatch):
        # Whatever turns a tensor into a Python number waits for the device. Reading the bound now and then is put off.
        monkeypatch.setattr(decisions, "_SECONDS_BETWEEN_READS", float("inf"))
        calls = []
        for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__float__", "__int__", "__bool__", "__index__"):
            original = getattr(torch.Tensor, name)

            def counted(self, *args, original=original, name=name, **kwargs):
                calls.append(name)
                return original(self, *args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, counted)

        def number_of_reads(objective, batch_size):
            """From the end of the first epoch on: before it, every datum is checked."""
            splits = pyro_vae.data.load(X, binarize="dynamic")
            options = {"objective": objective, "clip_norm": 1, "lr": lambda fraction: 0.01, "num_epochs": 2}
            reads = []
            fit(vae(), splits, batch_size=batch_size, callbacks=[lambda record: reads.append(len(calls))], **options)
            return reads[1] - reads[0]

        for objective in (ELBO(), ELBO(num_particles=2, kl="analytic"), IWAE(num_particles=2)):
            assert number_of_reads(objective, batch_size=2) == number_of_reads(objective, batch_size=20) > 0
        # A Pyro ELBO does wait, so the count can tell.
        assert number_of_reads(Trace_ELBO(), batch_size=2) > number_of_reads(Trace_ELBO(), batch_size=20)


def test_latents_that_the_model_enumerates_need_no_guide():
    """A mixture of two, its label summed out by TraceEnum_ELBO; our own bounds have no weight for such a latent."""

    class Mixture(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                label = pyro.sample("label", dist.Categorical(x.new_ones(2)), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Bernoulli(logits=self.logits[label]).to_event(1), obs=x)

    class Nothing(PyroModule):
        def forward(self, x):
            pass

    x = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).repeat(10, 1)
    options = {"batch_size": 5, "num_epochs": 40, "lr": 0.1, "seed": 0, "progress": False}
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    history = pyro_vae.fit(Mixture(), Nothing(), x, objective=objective, **options)
    assert history.records[-1]["train_bound"] == pytest.approx(
        -math.log(2), abs=0.15
    )  # each half has a class of its own
    with pytest.raises(pyro_vae.ProgramError, match="'label': found in the model"):
        pyro_vae.fit(Mixture(), Nothing(), x, **options)


def test_plateau_scheduler_follows_the_validation_bound():
    pair = pyro_vae.VAE((4, 4), 2, (5,))

    def scheduler(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, threshold_mode="abs")

    options = {"num_epochs": 4, "batch_size": 6, "lr": 0.1, "valid": X, "progress": False, "scheduler": scheduler}
    records = pyro_vae.fit(pair.model, pair.guide, X, **options).records
    assert [record["learning_rate"] for record in records] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    with pytest.raises(ValueError, match="scheduler: found one beside a function as lr"):
        pyro_vae.fit(pair.model, pair.guide, X, **options | {"lr": lambda done: 0.1})
