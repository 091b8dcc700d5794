"""What a user draws from a packaged VAE, with any likelihood and network."""

from __future__ import annotations

import pyro
import pytest
import torch

import pyro_vae
from tests.support.programs import IMAGE, LATENT_DIM, LIKELIHOODS, NETWORKS, bits, packaged

X = bits(5)


class TestPrograms:
    @pytest.fixture(params=[(likelihood, network) for likelihood in LIKELIHOODS for network in NETWORKS], ids="-".join)
    def program(self, request):
        return packaged(*request.param)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_what_a_user_draws(self, program, device, dtype):
        program.to(device, dtype)
        drawn = {
            (7, *IMAGE): [program.sample(7), program.sample(7, mean=True)],
            (5, *IMAGE): [program.reconstruct(X), torch.from_numpy(program.reconstruct(X.numpy())).to(device)],
            (5, LATENT_DIM): [program.encode(X), program.encode(X.bool())],
            (0, *IMAGE): [program.sample(0)],
        }
        for shape, tensors in drawn.items():
            for tensor in tensors:
                assert tuple(tensor.shape) == shape
                assert (tensor.dtype, tensor.device.type, tensor.requires_grad) == (dtype, device.type, False)
                assert torch.isfinite(tensor).all()
        assert all(parameter.grad is None for parameter in program.parameters())
        assert list(pyro.get_param_store().keys()) == []
        with pytest.raises(ValueError, match="^num_samples: found -1, expected 0 or more"):
            program.sample(-1)

    def test_means_are_probabilities_or_means_and_draws_are_data(self, program):
        means, draws = program.sample(50, mean=True), program.sample(50)
        assert ((means > 0) & (means < 1)).all()  # all of these squash their means
        covered = program.likelihood(torch.zeros(1, LATENT_DIM)).support.check(draws)
        assert covered.all()
        assert (set(draws.unique().tolist()) == {0.0, 1.0}) == isinstance(program.likelihood, pyro_vae.Bernoulli)

    def test_the_reconstruction_is_the_decoded_posterior_mean(self, program):
        with torch.no_grad():
            q = program.posterior(X)
            assert torch.equal(program.encode(X), q.mean)
            assert torch.equal(program.reconstruct(X), program.likelihood(q.mean).mean)

    def test_modes_are_given_back_and_dropout_is_off(self, program):
        posterior = pyro_vae.DiagonalNormal(torch.nn.Sequential(torch.nn.Dropout(0.5), program.posterior.network))
        program = pyro_vae.VAE(prior=program.prior, likelihood=program.likelihood, posterior=posterior)
        assert torch.equal(program.encode(X), program.encode(X))
        assert all(module.training for module in program.modules())

    def test_the_pair_is_that_of_the_contract(self, program):
        for half in (program.model, program.guide):
            assert isinstance(half, pyro.nn.PyroModule)
        guide = pyro.poutine.trace(program.guide).get_trace(X)
        model = pyro.poutine.trace(pyro.poutine.replay(program.model, guide)).get_trace(X)
        assert {n for n, site in guide.nodes.items() if site["type"] == "sample"} == {"data", "z"}
        assert {n for n, site in model.nodes.items() if site["type"] == "sample"} == {"data", "z", "x"}
        assert model.nodes["x"]["is_observed"] and model.nodes["x"]["value"] is X
        for site in (guide.nodes["z"], model.nodes["z"], model.nodes["x"]):
            assert [(frame.name, frame.dim, frame.size) for frame in site["cond_indep_stack"]] == [("data", -1, 5)]

    def test_it_is_not_called_itself(self, program):
        with pytest.raises(TypeError, match="^VAE is a pair of programs: call its .model or .guide"):
            program(X)
