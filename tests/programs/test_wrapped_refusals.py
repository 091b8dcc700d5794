"""What ``wrap`` refuses, by the argument that is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import wrap

SHAPE, D = (3, 4), 2


class Returning(nn.Module):
    """A network that returns what a function makes of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


ENCODER, DECODER = nn.Linear(12, 2 * D), nn.Linear(D, 12)
REFUSED = {
    "a plain function": (
        {"encoder": lambda x: x},
        TypeError,
        "encoder: found a function whose parameters are out of reach, expected a module, or a method of one",
    ),
    "another latent size": (
        {"latent_dim": 3},
        ValueError,
        r"decoder: found one that fails on latents of shape \(16, 3\), of latent_dim=3: mat1 and mat2",
    ),
    "another latent size of the encoder": (
        {"encoder": nn.Linear(12, 6)},
        ValueError,
        r"encoder: on data of shape \(2, 12\): found a tensor of shape \(2, 6\) for 2 data, expected two tensors "
        r"\(2, 2\), the mean and the logvar, or one \(2, 4\)",
    ),
    "three outputs": (
        {"encoder": Returning(lambda x: (x[:, :2], x[:, :2], x))},
        ValueError,
        r"encoder: on data of shape \(2, 12\): found 3 outputs \(\(2, 2\), \(2, 2\), \(2, 12\)\) for 2 data",
    ),
    "both shapes fail": (
        {"data_shape": (4, 3), "encoder": nn.Linear(5, 4)},
        ValueError,
        r"encoder: on data of shape \(2, 4, 3\): .*; on data of shape \(2, 12\): .*; see latent_dim, data_shape and",
    ),
    "no tensor": (
        {"encoder": Returning(lambda x: {"mu": x})},
        ValueError,
        "found an output of type dict for 2 data",
    ),
    "another shape of the data": (
        {"data_shape": (13,)},
        ValueError,
        r"decoder: found an output of shape \(16, 12\), expected \(16, 13\), or as many numbers in a row",
    ),
    "a decoder of two": (
        {"decoder": Returning(lambda z: (z, z[:, :1]))},
        ValueError,
        r"decoder: .*found 2 outputs \(\(16, 2\), \(16, 1\)\), expected a tensor, or two of the same shape",
    ),
    "probabilities as logits": (
        {"decoder": nn.Sequential(DECODER, nn.Sigmoid())},
        ValueError,
        "decoder_output: found outputs of the decoder that all lie between 0 and 1, expected 'probs', or 'logits'",
    ),
    "logits as probabilities": (
        {"decoder_output": "probs"},
        ValueError,
        "decoder: found outputs from -.* to .*, expected probabilities, or decoder_output='logits'",
    ),
    "a scale of a Bernoulli": (
        {"scale": 0.1},
        ValueError,
        "scale: found 0.1 with likelihood='bernoulli', expected likelihood='gaussian'",
    ),
    "a likelihood that is made": (
        {"likelihood": pyro_vae.Bernoulli(DECODER, (12,))},
        TypeError,
        "likelihood: found Bernoulli, expected 'bernoulli', 'gaussian' or a function of a network and a data shape",
    ),
    "no likelihood": (
        {"likelihood": lambda network, shape: shape},
        TypeError,
        "likelihood: found one that makes tuple, expected a module",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    changed, error, message = REFUSED[case]
    arguments = {"encoder": ENCODER, "decoder": DECODER, "latent_dim": D, **changed}
    with pytest.raises(error, match=message):
        wrap(**arguments)


def test_outputs_between_0_and_1_are_logits_where_that_is_said():
    decoder = nn.Sequential(DECODER, nn.Sigmoid())
    z = torch.zeros(1, D)
    made = wrap(ENCODER, decoder, D, decoder_output="logits").likelihood(z)
    assert torch.equal(made.base_dist.logits, decoder(z))
