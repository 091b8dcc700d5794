"""Training a vector-quantised autoencoder: its codes move once a step and at no other time."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyro_vae
from pyro_vae import ELBO, IWAE
from pyro_vae.compilation import compiled as compilation
from pyro_vae.nn.codebook import Codebook
from pyro_vae.programs import perplexity
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.support.programs import IMAGE, bits, check_close, fit, same, seeded, traced, weights
from tests.support.vq_vaes import CODE_DIM, make


@pytest.fixture
def updates(monkeypatch):
    """How often a codebook was moved, and by how many vectors each time."""
    sizes = []
    update = Codebook.update

    def counted(self, z):
        sizes.append(z.numel() // CODE_DIM)
        update(self, z)

    monkeypatch.setattr(Codebook, "update", counted)
    return sizes


class TestWhenTheCodesMove:
    def test_once_a_step_of_fit_and_at_no_other_time(self, updates):
        vq = make()
        fit(vq, valid=bits(14, seed=1), num_epochs=3)  # 4 steps of 6 images an epoch
        assert updates == [24] * 12

    @pytest.mark.parametrize("objective", [IWAE(3), ELBO(2, gradient="stl")], ids=["iwae", "stl"])
    def test_once_a_step_of_other_objectives(self, updates, objective):
        fit(make(), num_epochs=1, objective=objective)
        assert updates == [24] * 4

    def test_once_a_step_of_svi(self, updates):
        vq, data = make(), bits(6)
        svi = SVI(vq.model, vq.guide, pyro.optim.Adam({"lr": 0.01}), loss=Trace_ELBO())
        svi.step(data), svi.step(data)
        assert updates == [24] * 2
        before = weights(vq)
        svi.evaluate_loss(data)
        assert updates == [24] * 2 and same(weights(vq), before)

    def test_the_move_is_that_of_the_batch_and_comes_before_the_choice(self):
        vq, data = make(), bits(6)
        other = make()
        other.load_state_dict(vq.state_dict())
        torch.manual_seed(5)
        other.codebook.update(other.encoder(data))
        expected = ELBO().bound(other.eval().model, other.guide, data)
        bound = seeded(lambda: torch.manual_seed(5) and ELBO().bound(vq.model, vq.guide, data))
        assert torch.equal(bound, expected) and same(weights(vq.codebook), weights(other.codebook))

    @pytest.mark.parametrize(
        "use",
        [
            lambda vq: pyro_vae.log_likelihood(vq.model, vq.guide, bits(6), 2),
            lambda vq: vq.encode(bits(6)),
            lambda vq: vq.codes(bits(6)),
            lambda vq: vq.reconstruct(bits(6)),
            lambda vq: vq.sample(3),
            lambda vq: perplexity(vq, bits(6)),
            lambda vq: ELBO().bound(vq.eval().model, vq.guide, bits(6)),
            lambda vq: pyro_vae.active_units(vq.guide, bits(6)),
        ],
        ids=["log_likelihood", "encode", "codes", "reconstruct", "sample", "perplexity", "eval", "active_units"],
    )
    def test_nothing_else_changes_anything(self, use):
        vq = make()
        before, modes = weights(vq), [module.training for module in vq.modules()]
        use(vq)
        assert same(weights(vq), before)
        assert [module.training for module in vq.modules()] in (modes, [False] * len(modes))

    def test_not_with_a_frozen_encoder_while_a_prior_is_trained(self):
        vq = make(prior="autoregressive")
        fit(vq, num_epochs=2)
        vq.encoder.requires_grad_(False), vq.likelihood.requires_grad_(False)
        before = weights(vq)
        history = fit(vq, num_epochs=20, lr=0.03)
        after = weights(vq)
        assert {name for name in before if not torch.equal(before[name], after[name])} == {
            f"0.model.prior.{name}" for name, _ in vq.prior.named_parameters()
        }
        assert history.records[-1]["train_bound"] > history.records[0]["train_bound"] + 0.1


class TestTraining:
    def test_svi_lowers_the_loss(self):
        vq, data = make(), bits(24)
        svi = SVI(vq.model, vq.guide, pyro.optim.Adam({"lr": 0.01}), loss=Trace_ELBO())
        losses = [svi.step(data) / 24 for _ in range(150)]
        assert losses[-1] < losses[0] - 3  # nats; 16 pixels are 11 at first, and the images are 7 at best
        names = set(pyro.get_param_store().keys())
        assert any(name.startswith("encoder$$$") for name in names) and not any("codebook" in name for name in names)

    @pytest.mark.parametrize("prior", ["independent", "autoregressive"])
    def test_compiled_it_is_the_same_step(self, prior):
        steps = []
        with pyro.validation_enabled(False):
            for kind in (EagerStep, CompiledStep):
                torch.manual_seed(7)
                vq = make(prior=prior).train()
                options = {} if kind is EagerStep else {"lower": traced}
                pair = pyro_vae.training.checkpoint.as_module((vq.model, vq.guide))
                steps.append((kind(vq.model, vq.guide, pair, ELBO(), **options), vq))
            for seed in (1, 2, 3):
                results = []
                for step, vq in steps:
                    torch.manual_seed(seed)
                    bounds = step(bits(6, seed))
                    results.append({"bounds": bounds} | {n: p.grad for n, p in vq.named_parameters()} | weights(vq))
                check_close(results[1], results[0], rtol=1e-4, atol=1e-5)
        assert steps[1][0].gradients.reason is None and steps[1][0].gradients.num_traces == 1

    def test_compiled_fit_is_the_same(self, monkeypatch):
        monkeypatch.setattr(compilation, "inductor", traced)
        ends = []
        for compile in (False, True):
            torch.manual_seed(7)
            vq = make()
            fit(vq, num_epochs=1, compile=compile)
            ends.append(weights(vq))
        check_close(ends[1], ends[0], rtol=1e-3, atol=1e-4)

    def test_on_a_device(self, device):
        vq = make(prior="autoregressive").to(device)
        fit(vq, num_epochs=1)
        assert {tensor.device.type for tensor in vq.state_dict().values()} == {device.type}
        assert vq.sample(3).shape == (3, *IMAGE)

    @pytest.mark.parametrize("precision", ["bf16", "medium"])
    def test_in_lower_precision(self, precision):
        vq = make(prior="autoregressive")
        history = fit(vq, num_epochs=1, precision=precision)
        assert math.isfinite(history.best["train_bound"])
