"""Hierarchies that cannot be: each is refused when it is built, by a message that names the argument and the layer."""

from __future__ import annotations

import re

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import (
    HVAE,
    MLP,
    Bernoulli,
    ConditionalMLP,
    ConvLadderVAE,
    DiagonalNormal,
    LadderVAE,
    ProgramError,
    StandardNormal,
)
from tests.support.programs import IMAGE


def gaussian(in_shape, out_dim):
    """A part that takes one shape and gives a Gaussian of a length."""
    return DiagonalNormal(MLP(in_shape, (2, out_dim), ()))


def conditional(above, out_dim):
    return DiagonalNormal(ConditionalMLP(IMAGE, above, (2, out_dim), ()))


def pixels(in_dim, shape=IMAGE):
    return Bernoulli(MLP(in_dim, shape, ()), shape)


class Part(nn.Module):
    """A part that is a function."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *given):
        return self.run(*given)


def tensor():
    return Part(lambda *given: torch.zeros(1, 2))


def broken():
    return Part(lambda *given: {}["loc"])


def normal(shape, event_dim=0):
    return Part(lambda *given: dist.Normal(torch.zeros(shape), 1.0).to_event(event_dim))


def laplace(size):
    return Part(lambda z: dist.Laplace(torch.zeros(len(z), size), 1.0).to_event(1))


# Two layers, z1 of length 2 and z2 of length 3.
def parts():
    return {"prior": StandardNormal(3), "transitions": [gaussian(3, 2)], "likelihood": pixels(2)}


def bottom_up(**other):
    return HVAE(**({**parts(), "posteriors": [gaussian(IMAGE, 2), gaussian(2, 3)]} | other))


def top_down(**other):
    return HVAE(guide="top-down", **({**parts(), "posteriors": [conditional(3, 2), gaussian(IMAGE, 3)]} | other))


def ladder(**other):
    encoders = [MLP(IMAGE, None, (5,)), MLP(5, None, (6,))]
    posteriors = [gaussian(5, 2), gaussian(6, 3)]
    return LadderVAE(**({**parts(), "encoders": encoders, "posteriors": posteriors} | other))


def conv_ladder(**other):
    sizes = {"data_shape": IMAGE, "num_layers": (1, 1), "latent_channels": (1, 2), "channels": (4, 4)}
    return ConvLadderVAE(**(sizes | other))


CHAINS = [bottom_up, top_down, ladder]


def refused(error, message, make, *arguments, **options):
    """An error is raised with this message, where … stands for anything."""
    with pytest.raises(error, match=f"^{re.escape(message).replace('…', '.*')}$"):
        make(*arguments, **options)


def fails(part, kind, shapes, because):
    """What is said of a part that fails on its input."""
    takes = f"takes {shapes}, here in a batch of one" if shapes else "is called without an argument"
    return f"{part}: found {kind}, expected a module that {takes}: {because}"


def takes(part, found, expected, kind="DiagonalNormal", shapes=None):
    """What is said of a part whose network is for inputs of another length."""
    because = f"ValueError: MLP: found an input of shape {(1, *found)}, expected (*batch, {expected})"
    return fails(part, kind, shapes or found, because)


def gives(part, found, expected):
    """What is said of a part, with its layer, whose distribution has another event shape."""
    return f"{part}: found a distribution of event shape {found}, expected the event shape {expected}"


def batch(part, found, event, expected=(1,)):
    """What is said of a part, with its layer, whose distribution has not the batch shape of one datum."""
    return (
        f"{part}: found a distribution of batch shape {found} and event shape {event} for one datum, expected the "
        f"batch shape {expected}; declare the dimensions of one datum with .to_event(n)"
    )


def no_distribution(part):
    return f"{part}: found Tensor, expected a distribution: pyro.distributions has them"


@pytest.mark.parametrize("make", [*CHAINS, conv_ladder])
def test_the_good_programs_of_this_file_are_good(make):
    assert make().latents == ("z1", "z2")


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


class TestPartsThatDoNotFit:
    @pytest.mark.parametrize("make", CHAINS)
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"transitions": [gaussian(4, 2)]}, takes("transitions[0]", (3,), 4)),
            ({"transitions": [gaussian(3, 4)]}, takes("likelihood", (4,), 2, "Bernoulli")),
            ({"prior": StandardNormal(7)}, takes("transitions[0]", (7,), 3)),
            ({"likelihood": pixels(5)}, takes("likelihood", (2,), 5, "Bernoulli")),
            ({"prior": tensor()}, no_distribution("prior: layer z2")),
            ({"transitions": [tensor()]}, no_distribution("transitions[0]: layer z1")),
            ({"likelihood": tensor()}, no_distribution("likelihood: layer x")),
            ({"prior": broken()}, fails("prior", "Part", None, "KeyError: 'loc'")),
            ({"transitions": [broken()]}, fails("transitions[0]", "Part", (3,), "KeyError: 'loc'")),
            ({"likelihood": broken()}, fails("likelihood", "Part", (2,), "KeyError: 'loc'")),
            ({"prior": normal(3)}, batch("prior: layer z2", (3,), (), expected=())),
            ({"transitions": [normal((1, 2))]}, batch("transitions[0]: layer z1", (1, 2), ())),
            ({"transitions": [normal(2, 1)]}, "transitions[0]: layer z1: found a distribution of batch shape () …"),
            ({"likelihood": normal((1, *IMAGE))}, batch("likelihood: layer x", (1, 4, 4), ())),
        ],
    )
    def test_in_the_model(self, make, arguments, message):
        refused(ProgramError, message, make, **arguments)

    @pytest.mark.parametrize(
        ("posteriors", "message"),
        [
            ([gaussian(IMAGE, 4), gaussian(2, 3)], gives("posteriors[0]: layer z1", (4,), (2,))),
            ([gaussian(IMAGE, 2), gaussian(2, 4)], gives("posteriors[1]: layer z2", (4,), (3,))),
            ([gaussian(5, 2), gaussian(2, 3)], takes("posteriors[0]", (4, 4), 5)),
            ([gaussian(IMAGE, 2), gaussian(9, 3)], takes("posteriors[1]", (2,), 9)),
            (
                [conditional(3, 2), gaussian(IMAGE, 3)],  # a top-down guide's
                fails("posteriors[0]", "DiagonalNormal", (4, 4), "TypeError: …missing 1 required positional arg…"),
            ),
            ([tensor(), gaussian(2, 3)], no_distribution("posteriors[0]: layer z1")),
            ([gaussian(IMAGE, 2), tensor()], no_distribution("posteriors[1]: layer z2")),
            ([broken(), gaussian(2, 3)], fails("posteriors[0]", "Part", (4, 4), "KeyError: 'loc'")),
            ([normal((1, 2)), gaussian(2, 3)], batch("posteriors[0]: layer z1", (1, 2), ())),
        ],
    )
    def test_bottom_up(self, posteriors, message):
        refused(ProgramError, message, bottom_up, posteriors=posteriors)

    @pytest.mark.parametrize(
        ("posteriors", "message"),
        [
            ([conditional(3, 9), gaussian(IMAGE, 3)], gives("posteriors[0]: layer z1", (9,), (2,))),
            ([conditional(3, 2), gaussian(IMAGE, 9)], gives("posteriors[1]: layer z2", (9,), (3,))),
            ([conditional(9, 2), gaussian(IMAGE, 3)], takes("posteriors[0]", (3,), 9, shapes="(4, 4) and (3,)")),
            (
                [gaussian(IMAGE, 2), gaussian(2, 3)],  # a bottom-up guide's
                fails("posteriors[0]", "DiagonalNormal", "(4, 4) and (3,)", "TypeError: …arguments but 3 were given"),
            ),
            ([tensor(), gaussian(IMAGE, 3)], no_distribution("posteriors[0]: layer z1")),
            ([broken(), gaussian(IMAGE, 3)], fails("posteriors[0]", "Part", "(4, 4) and (3,)", "KeyError: 'loc'")),
        ],
    )
    def test_top_down(self, posteriors, message):
        refused(ProgramError, message, top_down, posteriors=posteriors)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"posteriors": [gaussian(5, 4), gaussian(6, 3)]}, gives("posteriors[0]: layer z1", (4,), (2,))),
            ({"posteriors": [gaussian(5, 2), gaussian(6, 9)]}, gives("posteriors[1]: layer z2", (9,), (3,))),
            ({"posteriors": [gaussian(5, 2), tensor()]}, no_distribution("posteriors[1]: layer z2")),
            ({"posteriors": [gaussian(5, 2), gaussian(7, 3)]}, takes("posteriors[1]", (6,), 7)),
            ({"encoders": [MLP(9, None, (5,))] * 2}, takes("encoders[0]", (4, 4), 9, "MLP")),
            ({"encoders": [MLP(IMAGE, None, (5,)), MLP(7, None, (6,))]}, takes("encoders[1]", (5,), 7, "MLP")),
            (
                {"encoders": [MLP(IMAGE, None, (5,)), gaussian(5, 6)]},
                "encoders[1]: found Independent for one datum, expected a tensor of shape (1, ...)",
            ),
            (
                {"encoders": [MLP(IMAGE, None, (5,)), Part(lambda x: torch.zeros(2, 6))]},
                "encoders[1]: found shape (2, 6) for one datum, expected a tensor of shape (1, ...)",
            ),
            (
                {"encoders": [Part(lambda x: None)] * 2},
                "encoders[0]: found NoneType for one datum, expected a tensor of …",
            ),
            ({"encoders": [broken()] * 2}, fails("encoders[0]", "Part", (4, 4), "KeyError: 'loc'")),
            *(
                (
                    part,
                    "posteriors[0], transitions[0]: layer z1: found Independent(Laplace(…), 1), expected a diagonal "
                    "Gaussian, Normal(...).to_event(n)",
                )
                for part in ({"transitions": [laplace(2)]}, {"posteriors": [laplace(2), gaussian(6, 3)]})
            ),
            (
                {"transitions": [Part(lambda z: dist.MultivariateNormal(torch.zeros(len(z), 2), torch.eye(2)))]},
                "posteriors[0], transitions[0]: layer z1: found MultivariateNormal(…expected a diagonal Gaussian, …",
            ),
        ],
    )
    def test_in_the_ladder(self, arguments, message):
        refused(ProgramError, message, ladder, **arguments)


class TestConvLadder:
    @pytest.mark.parametrize("shape", [16, (16,), (1, 1, 4, 4), (4, 0), (4, 4.0), None])
    def test_data_that_are_no_images(self, shape):
        message = f"data_shape: found {shape}, expected an image, (height, width) or (channels, height, width)"
        refused(ValueError, message, conv_ladder, data_shape=shape)

    @pytest.mark.parametrize(("name", "least"), [("num_layers", 0), ("latent_channels", 1), ("channels", 1)])
    @pytest.mark.parametrize("counts", [2, (1, -1), (1, 2.0), (True, 1), None])
    def test_counts(self, name, least, counts):
        expected = f"an integer of {least} or more for each level of images, the last level a single pixel"
        refused(ValueError, f"{name}: found {counts}, expected {expected}", conv_ladder, **{name: counts})
        if least:
            refused(ValueError, f"{name}: found (0, 1), expected {expected}", conv_ladder, **{name: (0, 1)})

    @pytest.mark.parametrize("counts", [(), (2,), (0, 0)])
    def test_levels(self, counts):
        message = f"num_layers: found {counts}, expected two levels or more, one with a latent"
        same = {"latent_channels": (1,) * len(counts), "channels": (4,) * len(counts)}
        refused(ValueError, message, conv_ladder, num_layers=counts, **same)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"channels": (4,)}, "channels: found (4,), expected one for each of 2 levels"),
            ({"latent_channels": (1, 2, 3)}, "latent_channels: found (1, 2, 3), expected one for each of 2 levels"),
            ({"num_layers": (1, 1, 1)}, "latent_channels: found (1, 2), expected one for each of 3 levels"),
            ({"num_blocks": 0}, "num_blocks: found 0, expected a positive integer"),
            ({"num_blocks": True}, "num_blocks: found True, expected a positive integer"),
            ({"likelihood": "poisson"}, "likelihood: found 'poisson', expected 'bernoulli', 'gaussian' or a module…"),
        ],
    )
    def test_arguments(self, arguments, message):
        refused(ValueError, message, conv_ladder, **arguments)

    @pytest.mark.parametrize(
        ("likelihood", "message"),
        [
            (pixels(9), takes("likelihood", (16,), 9, "Bernoulli")),
            (pixels(16, (3, 3)), gives("likelihood: layer x", (3, 3), (4, 4))),
            (tensor(), no_distribution("likelihood: layer x")),
            (broken(), fails("likelihood", "Part", (16,), "KeyError: 'loc'")),
            (normal((1, *IMAGE)), batch("likelihood: layer x", (1, 4, 4), ())),
        ],
    )
    def test_a_likelihood_that_does_not_fit(self, likelihood, message):
        refused(ProgramError, message, conv_ladder, likelihood=likelihood)
