"""What a tracker is told of a run: its program and its arguments as plain data."""

from __future__ import annotations

import json

import torch

import pyro_vae
from pyro_vae import training
from tests.support.programs import bits, vae

X = bits(24)


def told(model, guide, data=X, **options):
    runs = []

    class Told(training.Callback):
        def start(self, run):
            runs.append(run)

    pyro_vae.fit(model, guide, data, callbacks=[Told()], num_epochs=1, batch_size=6, progress=False, **options)
    return runs[0]


def test_of_a_packaged_program_with_parts():
    decoder = pyro_vae.MLP(2, (7,), hidden_dims=(3,))
    program = pyro_vae.VAE((7,), 2, likelihood=pyro_vae.Gaussian(decoder, (7,), scale="shared"))
    config = told(program.model, program.guide, torch.randn(12, 7), lr=lambda done: 0.1).config
    assert (config["program"], config["program.likelihood"], config["program.likelihood.network"]) == (
        "VAE", "Gaussian", "MLP",
    )  # fmt: skip
    assert config["program.likelihood.network.hidden_dims"] == [3] and config["scheduler"] is None
    assert "<lambda>" in config["lr"]
    json.dumps(config)


def test_of_a_program_that_is_no_longer_its_recipe():
    likelihoods = [pyro_vae.Gaussian(pyro_vae.MLP(2, (7,)), (7,), scale=scale) for scale in ("shared", "per_pixel")]
    program = pyro_vae.VAE((7,), 2, likelihood=likelihoods[0])
    program.model.likelihood = likelihoods[1]
    config = told(program.model, program.guide, torch.randn(12, 7)).config
    assert "program" not in config and (config["model"], config["guide"]) == ("Model", "Guide")


def test_of_functions():
    program = vae()

    def model(x):
        return program.model(x)

    config = told(*pyro_vae.anneal_kl(model, program.guide, 0.5)).config
    assert config["model"].endswith("test_of_functions.<locals>.model") and "0.5" in config["kl_weight"]


def test_without_a_checkpoint_there_is_no_folder():
    program = vae()
    run = told(program.model, program.guide)
    assert (run.folder, run.resumed, run.records) == (None, False, ())
