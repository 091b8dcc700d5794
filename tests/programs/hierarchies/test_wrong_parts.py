"""Hierarchies of parts that do not fit: each is refused by a message that names the argument and the layer."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import MLP, ProgramError, StandardNormal
from tests.support.misfits import (
    CHAINS,
    Part,
    batch,
    bottom_up,
    broken,
    conditional,
    conv_ladder,
    fails,
    gaussian,
    gives,
    ladder,
    laplace,
    no_distribution,
    normal,
    pixels,
    refused,
    takes,
    tensor,
    top_down,
)
from tests.support.programs import IMAGE


@pytest.mark.parametrize("make", [*CHAINS, conv_ladder])
def test_the_good_programs_of_this_file_are_good(make):
    assert make().latents == ("z1", "z2")


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
