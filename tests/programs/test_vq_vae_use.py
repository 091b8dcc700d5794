"""The uses of a vector-quantised autoencoder: files, draws, perplexity, and which mistakes are named."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import ELBO, MLP, Bernoulli
from pyro_vae.nn.codebook import Codebook
from pyro_vae.priors.codes import AutoregressiveCodes, IndependentCodes
from pyro_vae.programs import VQVAE, perplexity
from tests.support.programs import IMAGE, bits, fit, perturbed, same, weights
from tests.support.vq_vaes import CLOSE, CODE_DIM, CODE_SHAPE, K, by_hand, double, make, x


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
