"""Recipes: what is remembered, what is refused, what is rebuilt; and where a module lives."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import MLP, Bernoulli, DiagonalNormal, StandardNormal
from pyro_vae.nn.recipes import build
from pyro_vae.runtime.modules import placement
from tests.support.programs import LIKELIHOODS, NETWORKS, packaged, vae, weights


class TestRecipe:
    def test_it_is_the_class_and_the_arguments_as_given(self):
        assert StandardNormal(3).recipe == {"class": "StandardNormal", "arguments": {"latent_dim": 3}}
        assert MLP(2, out_shape=(3, 4), hidden_dims=[5]).recipe == {
            "class": "MLP",
            "arguments": {"in_shape": 2, "out_shape": [3, 4], "hidden_dims": [5]},
        }

    def test_parts_nest(self):
        posterior = DiagonalNormal(MLP(4, (2, 2), ()), low=0.1)
        assert posterior.recipe == {
            "class": "DiagonalNormal",
            "arguments": {
                "network": {"class": "MLP", "arguments": {"in_shape": 4, "out_shape": [2, 2], "hidden_dims": []}},
                "low": 0.1,
            },
        }

    def test_both_halves_of_a_program_carry_the_whole(self):
        program = vae()
        assert program.model.recipe == program.guide.recipe == program.recipe

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    @pytest.mark.parametrize("network", NETWORKS)
    def test_through_json_it_builds_the_same_module(self, likelihood, network):
        program = packaged(likelihood, network)
        rebuilt = build(json.loads(json.dumps(program.recipe)))
        assert type(rebuilt) is type(program)
        assert str(rebuilt) == str(program)
        assert rebuilt.recipe == program.recipe
        shapes = [{name: tensor.shape for name, tensor in weights(p).items()} for p in (program, rebuilt)]
        assert shapes[0] == shapes[1]

    def test_a_deep_copy_keeps_it(self):
        program = vae()
        assert copy.deepcopy(program).recipe == program.recipe

    def test_it_is_no_state_of_the_module(self):
        assert "recipe" not in " ".join(vae().state_dict())

    @pytest.mark.parametrize(
        "module",
        [
            Bernoulli(nn.Linear(2, 4), (4,)),
            DiagonalNormal(nn.Sequential(MLP(4, (2, 2), ()))),
            Bernoulli(nn.Identity(), (2,)),
        ],
    )
    def test_there_is_none_for_a_part_of_the_users_own(self, module):
        assert module.recipe is None

    def test_there_is_none_for_a_class_from_outside(self):
        class StandardNormal(pyro_vae.StandardNormal):  # even one of a known name
            pass

        assert StandardNormal(3).recipe is None
        assert type(build({"class": "StandardNormal", "arguments": {"latent_dim": 3}})) is pyro_vae.StandardNormal


class TestBuild:
    @pytest.mark.parametrize(
        ("recipe", "message"),
        [
            (
                {"class": "os.system", "arguments": {}},
                "found the class 'os.system', expected one of AutoregressiveCodes, Bernoulli, ",
            ),
            ({"class": ["MLP"], "arguments": {}}, r"found the class \['MLP'\], expected one of AutoregressiveCodes"),
            ({"class": "MLP"}, r"found the keys \['class'\], expected 'class' and 'arguments'"),
            ({"class": "MLP", "arguments": [1]}, r"found the keys \['arguments', 'class'\], expected"),
            (
                {"class": "MLP", "arguments": {}},
                "MLP cannot be built from it: .*missing 2 required positional arguments",
            ),
            ({"class": "MLP", "arguments": {"depth": 3}}, "MLP cannot be built from it: .*unexpected keyword argument"),
            (
                {"class": "DiagonalNormal", "arguments": {"network": {"class": "exec", "arguments": {}}}},
                "found the class 'exec', ",
            ),
        ],
    )
    def test_what_it_refuses(self, recipe, message):
        with pytest.raises(ValueError, match=f"^recipe: {message}"):
            build(recipe)


class TestProgramArguments:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (
                {"likelihood": "poisson"},
                ValueError,
                "likelihood: found 'poisson', expected 'bernoulli', 'gaussian' or a module",
            ),
            (
                {"latent_dim": None},
                ValueError,
                r"VAE: found data_shape=\(4,\) and latent_dim=None, expected both, or all of",
            ),
            ({"data_shape": None}, ValueError, "VAE: found data_shape=None and latent_dim=2, expected both"),
            ({"latent_dim": 0}, ValueError, "latent_dim: found 0, expected a positive integer"),
            ({"latent_dim": 2.0}, ValueError, "latent_dim: found 2.0, expected a positive integer"),
            ({"data_shape": (4, -1)}, ValueError, r"data_shape: found \(4, -1\), expected positive integers"),
            ({"prior": 3}, TypeError, "prior: found int, expected a module"),
            ({"posterior": "normal"}, TypeError, "posterior: found str, expected a module"),
            (
                {"likelihood": None},
                TypeError,
                "likelihood: found NoneType, expected .bernoulli., .gaussian. or a",
            ),
        ],
    )
    def test_what_it_refuses(self, arguments, error, message):
        with pytest.raises(error, match=f"^{message}"):
            pyro_vae.VAE(**({"data_shape": (4,), "latent_dim": 2, "hidden_dims": (3,)} | arguments))

    def test_a_part_replaces_the_one_made_from_the_sizes(self):
        prior, posterior = StandardNormal(2), DiagonalNormal(MLP((4,), (2, 2), (7,)))
        program = pyro_vae.VAE((4,), 2, (3, 5), prior=prior, posterior=posterior)
        assert program.prior is prior and program.posterior is posterior
        widths = [m.out_features for m in program.likelihood.modules() if isinstance(m, nn.Linear)]
        assert widths == [5, 3, 4]  # the decoder mirrors the encoder


class TestPlacement:
    def test_the_first_floating_tensor_says(self):
        class Flags(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("flags", torch.zeros(2, dtype=torch.long))

        assert placement(Flags(), nn.Linear(1, 1).to(torch.bfloat16)) == (torch.device("cpu"), torch.bfloat16)
        assert placement(nn.BatchNorm1d(2, affine=False).double()) == (torch.device("cpu"), torch.float64)

    def test_a_method_lives_where_its_object_does(self):
        assert placement(nn.Linear(1, 1).double().forward)[1] == torch.float64

    def test_without_any_it_is_the_default(self, double):
        assert placement(lambda x: x) == (torch.device("cpu"), torch.float64)

    def test_devices(self, device):
        assert placement(vae().to(device))[0].type == device.type
