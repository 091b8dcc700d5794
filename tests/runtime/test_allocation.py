"""A recipe cannot ask for more than its weights stand for."""

from __future__ import annotations

import json
import time

import pytest
import torch

import pyro_vae
from pyro_vae.nn.recipes import build
from pyro_vae.runtime.allocation import BoundedAllocation
from tests.support.parts import POSTERIORS, PRIORS, composed
from tests.support.programs import HIERARCHIES, vae


def mlp(**arguments):
    return {"class": "MLP", "arguments": {"in_shape": 2, "out_shape": 2} | arguments}


def flow(**arguments):
    return {"class": "Flow", "arguments": {"latent_dim": 2} | arguments}


CONV = {"data_shape": [4, 4], "num_layers": [1, 1], "latent_channels": [1, 2], "channels": [4, 4]}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (mlp(out_shape=10**9), r"MLP cannot be built from it: found \d+ MB to be allocated, expected at most 4 MB"),
        (mlp(hidden_dims=[1] * 10**5), "MLP cannot be built from it: found more than 96 tensors to be made"),
        (flow(transforms="spline", latent_dim=10**6), r"Flow cannot be built from it: found \d+ MB"),
        (flow(transforms="autoregressive", hidden_dims=[10**4, 10**4]), r"Flow cannot be built from it: found \d+ MB"),
        (flow(transforms="planar", num_transforms=10**6), "Flow cannot be built from it: found more than 96 tensors"),
        ({"class": "ConvLadderVAE", "arguments": CONV | {"num_blocks": 10**6}}, "found more than 96 tensors"),
        ({"class": "VAE", "arguments": {"data_shape": [4], "latent_dim": 10**9}}, r"found 4\d+ MB to be allocated"),
        (
            {"class": "VAE", "arguments": {"data_shape": [4], "latent_dim": 2, "posterior": mlp(out_shape=10**12)}},
            r"MLP cannot be built from it: .*; in the part 'posterior'",
        ),
        ({"class": "StandardNormal", "arguments": {"latent_dim": 10**400}}, "StandardNormal cannot be built from it"),
    ],
)
def test_what_is_refused_and_how_soon(recipe, message, tmp_path):
    pyro_vae.save(vae(), tmp_path)
    (tmp_path / "program.json").write_text(json.dumps({"format": 1, "recipe": recipe}))
    started = time.perf_counter()
    with pytest.raises(ValueError, match=f"program.json: recipe: .*{message}"):
        pyro_vae.load(tmp_path, verify=False)
    assert time.perf_counter() - started < 5


def test_honest_programs_stay_far_below():
    programs = [make() for make in HIERARCHIES.values()]
    programs += [composed(posterior, prior) for posterior in POSTERIORS for prior in ("standard", "flow")]
    programs += [composed("diagonal", prior) for prior in PRIORS] + [pyro_vae.VQVAE((8, 8)), pyro_vae.M2((4, 4), 3, 2)]
    for program in programs:
        tensors = list(program.state_dict().values())
        with BoundedAllocation(tensors) as bound:
            build(program.recipe)
        assert bound.num_bytes <= 1.2 * sum(tensor.nbytes for tensor in tensors)
        assert bound.num_tensors <= 1.5 * len(tensors)


def test_results_of_other_tensors_are_bounded_too():
    row = torch.ones(10**4)
    with BoundedAllocation([row]):
        assert (row[:10] * row[:, None]).shape == (10**4, 10)
        with pytest.raises(ValueError, match="found 400 MB to be allocated"):
            row * row[:, None]
        mask = torch.arange(4) > 1
        assert len(row[:4][mask]) == 2  # of a size that hangs on values
        with pytest.raises(ValueError, match="found 8 MB to be allocated, expected at most 4 MB"):
            torch.nonzero(torch.ones(1).expand(10**6))


def test_short_types_count_as_what_they_are_built_in():
    bound = BoundedAllocation([torch.zeros(10**6, dtype=torch.bfloat16)])
    assert bound.max_bytes == 2 * 4 * 10**6 + (4 << 20)
