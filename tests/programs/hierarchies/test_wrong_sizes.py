"""Hierarchies of sizes that cannot be: each is refused by a message that names the argument and the layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_vae import HVAE, MLP, LadderVAE, ProgramError, StandardNormal
from tests.support.misfits import (
    CHAINS,
    bottom_up,
    conv_ladder,
    gaussian,
    gives,
    ladder,
    parts,
    pixels,
    refused,
    takes,
    top_down,
)
from tests.support.programs import IMAGE


@pytest.mark.parametrize("make", [HVAE, LadderVAE])
class TestSizes:
    @pytest.mark.parametrize("latent_dims", [(), (3, 0), (3, -2), (3, 2.5), ("3",), (3, True), 3, None, "32"])
    def test_lengths_of_latents(self, make, latent_dims):
        expected = "the length of each layer from z1 up, one or more positive integers"
        refused(ValueError, f"latent_dims: found {latent_dims!r}, expected {expected}", make, IMAGE, latent_dims)

    @pytest.mark.parametrize("wrong", [(0,), (2.5,), (5, True), ((5,),), ((5,), (5,), (5,)), 5, "55"])
    def test_hidden_widths(self, make, wrong):
        expected = "a list of widths, or such a list for each of the 2 layers from z1 up"
        refused(ValueError, f"hidden_dims: found {wrong!r}, expected {expected}", make, IMAGE, (3, 2), wrong)

    @pytest.mark.parametrize("wrong", [6, (-1,), (2.5,)])
    def test_hidden_widths_of_a_layer(self, make, wrong):
        message = "hidden_dims[{}]: found {!r}, expected the hidden widths of layer z{}, a list of positive integers"
        refused(ValueError, message.format(0, wrong, 1), make, IMAGE, (3, 2), (wrong, (5,)))
        refused(ValueError, message.format(1, wrong, 2), make, IMAGE, (3, 2), ((5,), wrong))

    @pytest.mark.parametrize("arguments", [{}, {"latent_dims": (3, 2)}, parts()])
    def test_sizes_that_are_missing(self, make, arguments):
        modules = "prior, transitions, likelihood and posteriors"
        if make is LadderVAE:
            modules = modules.replace(" and", ", encoders and")
        message = f"data_shape: found None, expected the shape of one datum, or all of {modules} as modules"
        refused(ValueError, message, make, **arguments)

    @pytest.mark.parametrize("data_shape", [16, (4, 0), (4, True), (4, 4.0), "mnist"])
    def test_shapes_of_data(self, make, data_shape):
        message = f"data_shape: found {data_shape!r}, expected the shape of one datum, one or more positive integers"
        refused(ValueError, message, make, data_shape)

    def test_unknown_names(self, make):
        message = "likelihood: found 'poisson', expected 'bernoulli', 'gaussian' or a module…"
        refused(ValueError, message, make, IMAGE, (3, 2), (5,), "poisson")
        message = "activation: found 'swish', expected one of 'tanh', 'relu', …"
        refused(ValueError, message, make, IMAGE, (3, 2), (5,), activation="swish")

    @pytest.mark.parametrize(
        ("part", "message"),
        [
            ({"prior": StandardNormal(7)}, gives("prior: layer z2", (7,), (2,))),
            ({"transitions": [gaussian(2, 4)]}, gives("transitions[0]: layer z1", (4,), (3,))),
            ({"likelihood": pixels(2)}, takes("likelihood", (3,), 2, "Bernoulli")),
        ],
    )
    def test_a_part_beside_sizes_that_it_does_not_fit(self, make, part, message):
        refused(ProgramError, message, make, IMAGE, (3, 2), (5,), **part)

    def test_a_likelihood_of_other_data(self, make):
        message = gives("likelihood: layer x", (3, 3), IMAGE)
        refused(ProgramError, message, make, IMAGE, (2, 3), (5,), pixels(2, (3, 3)))

    def test_sizes_may_be_any_integers(self, make):
        program = make(torch.zeros(IMAGE).shape, np.array([2, 3]), range(5, 6))
        assert program.encode(torch.zeros(1, *IMAGE), layer=2).shape == (1, 3)

    @pytest.mark.parametrize("count", [0, 2])
    def test_transitions_beside_another_number_of_layers(self, make, count):
        message = f"transitions: found {count}, expected 1, one between each two of the 2 layers of latent_dims=(3, 2)"
        refused(ValueError, message, make, IMAGE, (3, 2), (5,), transitions=[gaussian(2, 3)] * count)


@pytest.mark.parametrize(("hidden_dims", "layer"), [((), "z1"), (((), (5,)), "z1"), (((5,), ()), "z2")])
def test_the_ladder_has_features_at_each_layer(hidden_dims, layer):
    message = f"hidden_dims: found {hidden_dims!r}, with none for layer {layer}, expected one width or more, …"
    refused(ValueError, message, LadderVAE, IMAGE, (3, 2), hidden_dims)
    assert HVAE(IMAGE, (3, 2), hidden_dims).latents == ("z1", "z2")


def test_an_unknown_guide():
    message = "guide: found 'sideways', expected 'bottom-up' or 'top-down'"
    refused(ValueError, message, HVAE, IMAGE, (3, 2), guide="sideways")


class TestLists:
    @pytest.mark.parametrize("make", CHAINS)
    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_a_posterior_and_an_encoder_a_layer(self, make, count):
        because = "one for each layer, z1 to z2, that the prior and 1 transitions make"
        message = f"posteriors: found {count}, expected 2, {because}"
        refused(ValueError, message, make, posteriors=[gaussian(IMAGE, 2)] * count)
        if make is ladder:
            message = f"encoders: found {count}, expected 2, {because}"
            refused(ValueError, message, make, encoders=[MLP(IMAGE, None, (5,))] * count)

    @pytest.mark.parametrize("missing", ["encoders", "posteriors"])
    def test_encoders_and_posteriors_come_together(self, missing):
        message = "encoders, posteriors: found one of the two, expected both or neither"
        refused(ValueError, message, ladder, **{missing: None})

    @pytest.mark.parametrize("make", CHAINS)
    @pytest.mark.parametrize(("wrong", "kind"), [(gaussian(3, 2), "DiagonalNormal"), (3, "int"), ("mlp", "str")])
    def test_what_is_no_list(self, make, wrong, kind):
        for name in ("transitions", "posteriors", *(["encoders"] if make is ladder else [])):
            message = f"{name}: found {kind}, expected a list of modules, from the data up"
            refused(TypeError, message, make, **{name: wrong})

    @pytest.mark.parametrize("make", [*CHAINS, conv_ladder])
    @pytest.mark.parametrize(("wrong", "kind"), [(None, "NoneType"), (1.0, "float"), ([pixels(2)], "list")])
    def test_what_is_no_likelihood(self, make, wrong, kind):
        expected = "'bernoulli', 'gaussian' or a module whose forward is a distribution"
        refused(TypeError, f"likelihood: found {kind}, expected {expected}", make, likelihood=wrong)

    @pytest.mark.parametrize(
        ("make", "arguments", "message"),
        [
            (bottom_up, {"prior": 3}, "prior: found int, expected a module whose forward is a distribution"),
            (top_down, {"prior": StandardNormal}, "prior: found type, …"),
            (ladder, {"prior": [StandardNormal(3)]}, "prior: found list, …"),
            (ladder, {"transitions": [None]}, "transitions[0]: found NoneType, expected a module"),
            (
                bottom_up,
                {"posteriors": [gaussian(IMAGE, 2), len]},
                "posteriors[1]: found builtin_function_or_method, …",
            ),
            (ladder, {"encoders": [MLP(IMAGE, None, (5,)), "mlp"]}, "encoders[1]: found str, expected a module"),
        ],
    )
    def test_what_is_no_module(self, make, arguments, message):
        refused(TypeError, message, make, **arguments)
