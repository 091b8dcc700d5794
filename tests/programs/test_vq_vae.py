"""The vector-quantised autoencoder: a true bound, the paper's two gradients, and codes that move in training alone."""

from __future__ import annotations

import importlib
import json
import math
from itertools import product
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, MLP, Bernoulli
from pyro_vae.compilation import compiled as compilation
from pyro_vae.nn.codebook import Codebook
from pyro_vae.priors.codes import AutoregressiveCodes, IndependentCodes
from pyro_vae.programs import VQVAE, perplexity
from pyro_vae.training.step import CompiledStep, EagerStep
from tests.support.programs import IMAGE, bits, check_close, fit, perturbed, same, seeded, traced, weights

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
K, CODE_SHAPE, CODE_DIM = 3, (2, 2), 2
GRIDS = torch.tensor(list(product(range(K), repeat=4))).reshape(-1, 2, 2)  # (81, 2, 2)
double = pytest.mark.usefixtures("double")


def make(**options) -> VQVAE:
    """2 x 2 codes of 4 x 4 images, with a prior that is not uniform."""
    prior = options.pop("prior", "independent")
    if prior == "autoregressive":
        prior = AutoregressiveCodes(CODE_SHAPE, K, hidden_dim=8, num_layers=1, num_heads=2)
    vq = VQVAE(IMAGE, K, CODE_DIM, (4,), **options, prior=prior)
    perturbed(vq.prior)
    return vq


def x(num_data=6):
    return bits(num_data).to(torch.get_default_dtype())


def by_hand(vq, data):
    """Each part of the bound, ``(B,)``, with nothing of the programs run."""
    outputs = vq.encoder(data)  # (B, 2, 2, 2)
    distances = (outputs[..., None, :] - vq.codebook.vectors).square().sum(-1)
    codes = distances.argmin(-1)
    z = vq.codebook.vectors[codes]
    logits = vq.likelihood.network(z.flatten(1))
    return dist.Bernoulli(logits=logits).to_event(2).log_prob(data), vq.prior().log_prob(codes), outputs, z, codes


@double
@pytest.mark.parametrize("prior", ["independent", "autoregressive"])
class TestBound:
    def test_it_is_the_two_terms_in_nats(self, prior):
        vq, data = make(prior=prior).eval(), x()
        log_p_x, log_p_z, *_ = by_hand(vq, data)
        torch.testing.assert_close(ELBO().bound(vq.model, vq.guide, data), log_p_x + log_p_z, **CLOSE)
        assert log_p_z.std() > 1e-4 and (log_p_z - 4 * math.log(1 / K)).abs().max() > 1e-3

    def test_log_q_is_zero_and_all_particles_are_one(self, prior):
        vq, data = make(prior=prior).eval(), x()
        expected = sum(by_hand(vq, data)[:2])
        trace = poutine.trace(vq.guide).get_trace(data)
        assert (trace.nodes["z"]["fn"].log_prob(trace.nodes["z"]["value"]) == 0).all()
        log_w = pyro_vae.log_weights(vq.model, vq.guide, data, num_particles=4)
        torch.testing.assert_close(log_w, expected.expand(4, 6), **CLOSE)
        torch.testing.assert_close(IWAE(4).bound(vq.model, vq.guide, data), expected, **CLOSE)

    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_the_likelihood_is_the_bound(self, prior, num_particles):
        vq, data = make(prior=prior), x()
        score = pyro_vae.log_likelihood(vq.model, vq.guide, data, num_particles)
        torch.testing.assert_close(score.values, sum(by_hand(vq, data)[:2]).detach(), **CLOSE)

    def test_it_is_below_the_sum_over_all_codes(self, prior):
        """p(x) = sum_z p(z) p(x|z), 81 terms, of which the bound is one."""
        vq, data = make(prior=prior).eval(), x()
        z = vq.codebook.vectors[GRIDS].flatten(1)  # (81, 8)
        log_p = vq.likelihood(z[:, None]).log_prob(data) + vq.prior().log_prob(GRIDS)[:, None]  # (81, B)
        bound = ELBO().bound(vq.model, vq.guide, data)
        assert (bound < log_p.logsumexp(0)).all()
        assert ((bound - log_p).abs().amin(0) < 1e-10).all()


@double
class TestGradient:
    def gradients(self, vq, data, objective=None):
        """By the encoder's outputs, of the bounds' sum; and the outputs."""
        held = []
        handle = vq.encoder.register_forward_hook(lambda module, args, output: held.append(output))
        bound = (objective or ELBO()).bound(vq.model, vq.guide, data).sum()
        handle.remove()
        assert len(held) == (2 if objective is not None and objective.gradient == "stl" else 1)  # the encoder's runs
        return torch.autograd.grad(bound, held[0])[0], held[0].detach()

    def test_straight_through_it_is_the_decoders(self):
        vq, data = make(commitment=0.0).eval(), x()
        found, _ = self.gradients(vq, data)
        z = by_hand(vq, data)[3].clone().requires_grad_()
        log_p = vq.likelihood(z.flatten(1)).log_prob(data).sum()
        torch.testing.assert_close(found, torch.autograd.grad(log_p, z)[0], **CLOSE)
        assert (found != 0).all()

    @pytest.mark.parametrize(
        "objective",
        [ELBO(), ELBO(3), ELBO(kl="analytic"), IWAE(3)],
        ids=["elbo", "particles", "analytic", "iwae"],
    )
    def test_of_the_commitment(self, objective):
        """2 β (e - z_e), for the sum of the squared distances over the positions."""
        data, beta = x(), 0.3
        vq = make(commitment=beta).eval()
        found, outputs = self.gradients(vq, data, objective)
        vq.guide.commitment = 0.0
        without, _ = self.gradients(vq, data, objective)
        torch.testing.assert_close(found - without, 2 * beta * (by_hand(vq, data)[3] - outputs), **CLOSE)

    @pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()], ids=lambda v: type(v).__name__)
    def test_under_the_losses_of_pyro(self, loss):
        data, results = x(), []
        vq = make().eval()
        for objective in (ELBO(), loss):
            vq.zero_grad()
            value = objective.differentiable_loss(vq.model, vq.guide, data)
            value.backward()
            results.append({"loss": value.detach()} | {name: p.grad.clone() for name, p in vq.named_parameters()})
        check_close(results[1], results[0], **CLOSE)

    def test_the_commitment_has_no_value(self):
        vq, data = make(commitment=1.0).eval(), x()
        bound = ELBO().bound(vq.model, vq.guide, data)
        vq.guide.commitment = 1e6
        assert torch.equal(ELBO().bound(vq.model, vq.guide, data), bound)

    @pytest.mark.parametrize("prior", ["independent", "autoregressive"])
    def test_log_p_of_the_codes_trains_the_prior_alone(self, prior):
        vq, data = make(prior=prior).eval(), x()
        trace = poutine.trace(poutine.replay(vq.model, trace=poutine.trace(vq.guide).get_trace(data))).get_trace(data)
        trace.nodes["z"]["fn"].log_prob(trace.nodes["z"]["value"]).sum().backward()
        with_gradient = {name for name, p in vq.named_parameters() if p.grad is not None and (p.grad != 0).any()}
        assert with_gradient and all(name.startswith("model.prior.") for name in with_gradient)
        assert {name for name, _ in vq.codebook.named_parameters()} == set()

    def test_stl_leaves_the_commitment_out(self):
        """As the docstring says: it drops the gradient of log q."""
        vq, data = make(commitment=0.3).eval(), x()
        found, _ = self.gradients(vq, data, ELBO(gradient="stl"))
        vq.guide.commitment = 0.0
        without, _ = self.gradients(vq, data)
        torch.testing.assert_close(found, without, **CLOSE)


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


class TestFiles:
    @pytest.mark.parametrize("prior", ["independent", "autoregressive"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_codes_and_averages_come_back(self, prior, dtype, tmp_path):
        vq = VQVAE(IMAGE, K, CODE_DIM, (4,), prior=prior).to(dtype)
        vq.codebook.update(torch.randn(20, CODE_DIM, dtype=dtype))
        perturbed(vq.prior)
        pyro_vae.save(vq, tmp_path)
        copy = pyro_vae.load(tmp_path)
        assert type(copy) is VQVAE and same(weights(copy), weights(vq))
        assert copy.model.codebook is copy.guide.codebook
        data = bits(6).to(dtype)
        for each in (vq, copy):
            each.eval()
        assert torch.equal(ELBO().bound(copy.model, copy.guide, data), ELBO().bound(vq.model, vq.guide, data))

    def test_parts_come_back(self, tmp_path):
        first = make()
        parts = {"encoder": first.encoder, "codebook": first.codebook, "likelihood": first.likelihood}
        prior = AutoregressiveCodes(CODE_SHAPE, K, hidden_dim=8, num_heads=2)
        vq = VQVAE(IMAGE, **parts, prior=prior)
        assert all(getattr(vq, name) is part for name, part in parts.items())
        pyro_vae.save(vq, tmp_path)
        assert same(weights(pyro_vae.load(tmp_path)), weights(vq))

    def test_a_run_goes_on_bit_by_bit(self, tmp_path):
        whole, parts = make(), make()
        parts.load_state_dict(whole.state_dict())
        fit(whole, num_epochs=4)
        fit(parts, num_epochs=2, checkpoint=tmp_path / "run")
        with torch.no_grad():
            for tensor in parts.state_dict().values():
                tensor.zero_()
        fit(parts, num_epochs=4, checkpoint=tmp_path / "run", resume=True)
        assert same(weights(parts), weights(whole))


@double
class TestUses:
    def test_what_encode_codes_and_reconstruct_give(self):
        vq, data = make(), x()
        _, _, _, z, codes = by_hand(vq, data)
        assert torch.equal(vq.codes(data), codes) and torch.equal(vq.encode(data), z)
        torch.testing.assert_close(vq.reconstruct(data), vq.likelihood(z.flatten(1)).mean, **CLOSE)

    @pytest.mark.parametrize("prior", ["independent", "autoregressive"])
    def test_samples_are_of_codes_from_the_prior(self, prior):
        vq = make(prior=prior)
        torch.manual_seed(3)
        means = vq.sample(5, mean=True)
        torch.manual_seed(3)
        codes = vq.prior().expand((5,)).sample()
        z = vq.codebook.vectors[codes].flatten(1)
        torch.testing.assert_close(means, vq.likelihood(z).mean, **CLOSE)

    def test_perplexity_is_that_of_the_frequencies(self):
        vq, data = make(), x(10)
        with torch.no_grad():
            vq.codebook.vectors.copy_(vq.encoder(data)[:3, 0, 0])
        frequencies = [(vq.codes(data) == k).double().mean().item() for k in range(K)]
        assert min(frequencies) > 0
        expected = math.exp(-sum(f * math.log(f) for f in frequencies))
        assert perplexity(vq, data, batch_size=4) == pytest.approx(expected, rel=1e-12)
        with torch.no_grad():
            vq.codebook.vectors[1:] = 1e6  # nothing chooses these
        assert perplexity(vq, data) == pytest.approx(1.0, abs=1e-12)

    def test_vectors_of_your_own(self):
        """Data that are no images, with an encoder and a decoder of fully connected layers."""
        vq = VQVAE(
            (5,),
            encoder=MLP((5,), (3, 2), (6,)),
            codebook=Codebook(4, 2, decay=0.9),
            likelihood=Bernoulli(MLP(6, (5,), (6,)), (5,)),
        )
        data = torch.bernoulli(torch.full((8, 5), 0.5))
        assert vq.encode(data).shape == (8, 3, 2) and vq.sample(2).shape == (2, 5)
        log_p_x = vq.likelihood(vq.encode(data).flatten(1)).log_prob(data)
        expected = log_p_x + vq.prior().log_prob(vq.codes(data))
        torch.testing.assert_close(ELBO().bound(vq.eval().model, vq.guide, data), expected, **CLOSE)

    def test_grey_images_in_colour(self):
        vq = VQVAE((3, 5, 7), K, CODE_DIM, (4, 4), likelihood="gaussian").eval()
        data = torch.rand(2, 3, 5, 7)
        assert vq.codes(data).shape == (2, 2, 2) and vq.reconstruct(data).shape == (2, 3, 5, 7)
        assert torch.isfinite(ELBO().bound(vq.model, vq.guide, data)).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prior": "pixelcnn"}, ValueError, "prior: found 'pixelcnn', expected 'independent', 'autoregressive' or"),
        ({"prior": 3}, TypeError, "prior: found int, expected 'independent', 'autoregressive' or a module"),
        ({"prior": IndependentCodes((3,), K)}, pyro_vae.ProgramError, r"prior: layer z: .*\(3,\), .* \(2, 2\)"),
        ({"likelihood": "normal"}, ValueError, "likelihood: found 'normal', expected 'bernoulli', 'gaussian' or"),
        ({"likelihood": Bernoulli(MLP(8, (3,)), (3,))}, pyro_vae.ProgramError, r"likelihood: layer x: .*\(3,\)"),
        ({"encoder": MLP(IMAGE, (2, 2, 3))}, pyro_vae.ProgramError, r"encoder: found .* \(1, 2, 2, 3\) for one datum"),
        ({"encoder": nn.Flatten()}, pyro_vae.ProgramError, r"encoder: found an output of shape \(1, 16\)"),
        ({"encoder": MLP(IMAGE, 2)}, pyro_vae.ProgramError, r"encoder: found an output of shape \(1, 2\) for one"),
        ({"codebook": nn.Identity()}, TypeError, "codebook: found Identity, expected a Codebook"),
        ({"commitment": -1.0}, ValueError, "commitment: found -1.0, expected a finite number, 0 or more"),
        ({"commitment": math.nan}, ValueError, "commitment: found nan, expected a finite number, 0 or more"),
        ({"num_codes": 0}, ValueError, "num_codes: found 0"),
        ({"channels": ()}, ValueError, r"channels: found \(\), expected one positive integer or more"),
        ({"data_shape": (4,)}, ValueError, r"data_shape: found \(4,\), expected an image"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        VQVAE(**{"data_shape": IMAGE, "num_codes": K, "code_dim": CODE_DIM, "channels": (4,)} | options)


def test_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    out = tmp_path / "run"
    options = ["--epochs", 3, "--prior-epochs", 2, "--channels", 8, "--num-codes", 16, "--hidden-dim", 16, "--out", out]
    main = importlib.import_module("vq_vae").main
    assert main([str(option) for option in options]) == 0
    text = capsys.readouterr().out
    assert "autoregressive prior" in text and str(out) in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert -100 < metrics["test_elbo_independent"] < metrics["test_elbo"] < -25
    assert 4 < metrics["perplexity"] <= metrics["num_codes"] == 16
    stages = [json.loads(line)["stage"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert stages == ["codes"] * 3 + ["prior"] * 2
    for name in ("samples", "samples_independent", "reconstructions"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    vq = pyro_vae.load(out)
    digits = pyro_vae.data.load("digits")
    bound = pyro_vae.log_likelihood(vq.model, vq.guide, digits.test, 1).mean()
    assert bound == pytest.approx(metrics["test_elbo"], abs=1e-4)
    assert main([str(option) for option in options]) == 2
    assert "expected a new folder" in capsys.readouterr().err
