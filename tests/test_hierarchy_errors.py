"""Hierarchies that cannot be: each is refused when it is built, by a message that names the argument and the layer."""

from __future__ import annotations

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
from tests.programs import IMAGE

TENSOR = "found a Tensor, expected a distribution: pyro.distributions has them$"


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


@pytest.mark.parametrize("make", [*CHAINS, conv_ladder])
def test_the_good_programs_of_this_file_are_good(make):
    assert make().latents == ("z1", "z2")


@pytest.mark.parametrize("make", [HVAE, LadderVAE])
class TestSizes:
    @pytest.mark.parametrize("latent_dims", [(), (3, 0), (3, -2), (3, 2.5), ("3",)])
    def test_lengths_of_latents(self, make, latent_dims):
        message = "latent_dims: found .*, expected the length of each layer from z1 up, one or more positive integers$"
        with pytest.raises(ValueError, match=f"^{message}") as caught:
            make(IMAGE, latent_dims)
        assert repr(latent_dims) in str(caught.value)

    @pytest.mark.parametrize("hidden_dims", [((5,),), ((5,), 6), (6, (5,)), ((5,), (5,), (5,)), (2.5,)])
    def test_nesting_of_hidden_widths(self, make, hidden_dims):
        with pytest.raises(ValueError, match=r"^hidden_dims: found .*, expected a list of widths, or such a list for "
                                             r"each of the 2 layers from z1 up$") as caught:  # fmt: skip
            make(IMAGE, (3, 2), hidden_dims)
        assert repr(hidden_dims) in str(caught.value)

    @pytest.mark.parametrize("hidden_dims", [(0,), ((5,), (-1,))])
    def test_hidden_widths(self, make, hidden_dims):
        with pytest.raises(ValueError, match=r"^hidden_dims: found \((0|-1),\), expected positive integers$"):
            make(IMAGE, (3, 2), hidden_dims)

    @pytest.mark.parametrize("arguments", [{}, {"latent_dims": (3, 2)}, parts()])
    def test_sizes_that_are_missing(self, make, arguments):
        message = "found data_shape=None, expected the shape of one datum, or all of prior, transitions, likelihood"
        with pytest.raises(ValueError, match=f"^{make.__name__}: {message}.* and posteriors as modules$"):
            make(**arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"likelihood": "poisson"},
                "likelihood: found 'poisson', expected 'bernoulli', 'gaussian' or a module$",
            ),
            ({"activation": "swish"}, "activation: found 'swish', expected one of 'tanh', 'relu'"),
            ({"data_shape": (4, 0)}, r"in_shape: found \(4, 0\), expected positive integers"),
        ],
    )
    def test_unknown_names_and_no_data(self, make, arguments, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            make(**({"data_shape": IMAGE, "latent_dims": (3, 2), "hidden_dims": (5,)} | arguments))


def test_an_unknown_guide():
    with pytest.raises(ValueError, match="^guide: found 'sideways', expected 'bottom-up' or 'top-down'$"):
        HVAE(IMAGE, (3, 2), guide="sideways")


class TestLists:
    @pytest.mark.parametrize("make", CHAINS)
    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_posteriors(self, make, count):
        with pytest.raises(ValueError, match=f"^posteriors: found {count}, expected 2, one for each of the layers z1 "
                                             "to z2 that the prior and 1 transitions make$"):  # fmt: skip
            make(posteriors=[gaussian(IMAGE, 2)] * count)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_encoders(self, count):
        with pytest.raises(ValueError, match=f"^encoders: found {count}, expected 2, one for each of the layers z1 "):
            ladder(encoders=[MLP(IMAGE, None, (5,))] * count)

    @pytest.mark.parametrize("missing", ["encoders", "posteriors"])
    def test_encoders_and_posteriors_come_together(self, missing):
        with pytest.raises(ValueError, match="^encoders, posteriors: found one of the two, expected both or neither$"):
            ladder(**{missing: None})

    @pytest.mark.parametrize(
        ("make", "arguments", "message"),
        [
            (bottom_up, {"prior": 3}, "prior: found int"),
            (bottom_up, {"prior": StandardNormal}, "prior: found type"),
            (top_down, {"transitions": 3}, "transitions: found int"),
            (ladder, {"transitions": [None]}, r"transitions\[0\]: found NoneType"),
            (
                bottom_up,
                {"posteriors": [gaussian(IMAGE, 2), len]},
                r"posteriors\[1\]: found builtin_function_or_method",
            ),
            (ladder, {"encoders": [MLP(IMAGE, None, (5,)), "mlp"]}, r"encoders\[1\]: found str"),
            (ladder, {"likelihood": 1.0}, "likelihood: found float"),
            (conv_ladder, {"likelihood": 1.0}, "likelihood: found float"),
        ],
    )
    def test_what_is_no_module(self, make, arguments, message):
        with pytest.raises(TypeError, match=f"^{message}, expected a module whose forward is a distribution$"):
            make(**arguments)


def takes(name, part, shapes, because):
    """What is said of a part that fails on its input."""
    return rf"{name}: found {part}, expected a module that takes {shapes}, here in a batch of one: {because}"


WRONG = r"found a distribution of event shape \({},\) and batch shape \(1,\), expected the event shape \({},\)$"
MLP_OF = r"MLP: found an input of shape {}, expected \(\*batch, {}\)$"


class TestPartsThatDoNotFit:
    @pytest.mark.parametrize("make", CHAINS)
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"transitions": [gaussian(4, 2)]},
                takes(r"transitions\[0\]", "DiagonalNormal", r"\(3,\)", MLP_OF.format(r"\(1, 3\)", 4)),
            ),
            (
                {"transitions": [gaussian(3, 4)]},
                takes("likelihood", "Bernoulli", r"\(4,\)", MLP_OF.format(r"\(1, 4\)", 2)),
            ),
            (
                {"prior": StandardNormal(7)},
                takes(r"transitions\[0\]", "DiagonalNormal", r"\(7,\)", MLP_OF.format(r"\(1, 7\)", 3)),
            ),
            (
                {"likelihood": pixels(5)},
                takes("likelihood", "Bernoulli", r"\(2,\)", MLP_OF.format(r"\(1, 2\)", 5)),
            ),
            ({"prior": tensor()}, f"prior: layer z2: {TENSOR}"),
            ({"transitions": [tensor()]}, rf"transitions\[0\]: layer z1: {TENSOR}"),
            ({"likelihood": tensor()}, f"likelihood: layer x: {TENSOR}"),
            (
                {"transitions": [Part(lambda z: dist.Normal(torch.zeros(1, 2), 1.0))]},
                r"transitions\[0\]: layer z1: found a distribution of batch shape \(1, 2\) for one datum, expected "
                r"\(1,\); declare the dimensions of one datum with \.to_event\(n\)$",
            ),
            (
                {"transitions": [Part(lambda z: dist.Normal(torch.zeros(2), 1.0).to_event(1))]},
                r"transitions\[0\]: layer z1: found a distribution of batch shape \(\) for one datum, expected \(1,\);",
            ),
        ],
    )
    def test_in_the_model(self, make, arguments, message):
        with pytest.raises(ProgramError, match=f"^{message}"):
            make(**arguments)

    @pytest.mark.parametrize(
        ("posteriors", "message"),
        [
            ([gaussian(IMAGE, 4), gaussian(2, 3)], rf"posteriors\[0\]: layer z1: {WRONG.format(4, 2)}"),
            ([gaussian(IMAGE, 2), gaussian(2, 4)], rf"posteriors\[1\]: layer z2: {WRONG.format(4, 3)}"),
            (
                [gaussian(5, 2), gaussian(2, 3)],
                takes(r"posteriors\[0\]", "DiagonalNormal", r"\(4, 4\)", MLP_OF.format(r"\(1, 4, 4\)", 5)),
            ),
            (
                [gaussian(IMAGE, 2), gaussian(9, 3)],
                takes(r"posteriors\[1\]", "DiagonalNormal", r"\(2,\)", MLP_OF.format(r"\(1, 2\)", 9)),
            ),
            (
                [conditional(3, 2), gaussian(IMAGE, 3)],  # a top-down guide's
                takes(r"posteriors\[0\]", "DiagonalNormal", r"\(4, 4\)", ".*missing 1 required positional argument: "),
            ),
            ([tensor(), gaussian(2, 3)], rf"posteriors\[0\]: layer z1: {TENSOR}"),
            ([gaussian(IMAGE, 2), tensor()], rf"posteriors\[1\]: layer z2: {TENSOR}"),
            (
                [Part(lambda x: dist.Normal(torch.zeros(1, 2), 1.0)), gaussian(2, 3)],
                r"posteriors\[0\]: layer z1: found a distribution of event shape \(\) and batch shape \(1, 2\), "
                r"expected the event shape \(2,\)$",
            ),
        ],
    )
    def test_bottom_up(self, posteriors, message):
        with pytest.raises(ProgramError, match=f"^{message}"):
            bottom_up(posteriors=posteriors)

    @pytest.mark.parametrize(
        ("posteriors", "message"),
        [
            ([conditional(3, 9), gaussian(IMAGE, 3)], rf"posteriors\[0\]: layer z1: {WRONG.format(9, 2)}"),
            ([conditional(3, 2), gaussian(IMAGE, 9)], rf"posteriors\[1\]: layer z2: {WRONG.format(9, 3)}"),
            (
                [conditional(9, 2), gaussian(IMAGE, 3)],
                takes(r"posteriors\[0\]", "DiagonalNormal", r"\(4, 4\) and \(3,\)", MLP_OF.format(r"\(1, 3\)", 9)),
            ),
            (
                [gaussian(IMAGE, 2), gaussian(2, 3)],  # a bottom-up guide's
                takes(r"posteriors\[1\]", "DiagonalNormal", r"\(4, 4\)", MLP_OF.format(r"\(1, 4, 4\)", 2))
                + "|^"
                + takes(r"posteriors\[0\]", "DiagonalNormal", r"\(4, 4\) and \(3,\)", ".*positional arguments but 3 "),
            ),
            ([tensor(), gaussian(IMAGE, 3)], rf"posteriors\[0\]: layer z1: {TENSOR}"),
        ],
    )
    def test_top_down(self, posteriors, message):
        with pytest.raises(ProgramError, match=f"^{message}"):
            top_down(posteriors=posteriors)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"posteriors": [gaussian(5, 4), gaussian(6, 3)]}, rf"posteriors\[0\]: layer z1: {WRONG.format(4, 2)}"),
            ({"posteriors": [gaussian(5, 2), gaussian(6, 9)]}, rf"posteriors\[1\]: layer z2: {WRONG.format(9, 3)}"),
            ({"posteriors": [gaussian(5, 2), tensor()]}, rf"posteriors\[1\]: layer z2: {TENSOR}"),
            (
                {"posteriors": [gaussian(5, 2), gaussian(7, 3)]},
                takes(r"posteriors\[1\]", "DiagonalNormal", r"\(6,\)", MLP_OF.format(r"\(1, 6\)", 7)),
            ),
            (
                {"encoders": [MLP(9, None, (5,)), MLP(5, None, (6,))]},
                takes(r"encoders\[0\]", "MLP", r"\(4, 4\)", MLP_OF.format(r"\(1, 4, 4\)", 9)),
            ),
            (
                {"encoders": [MLP(IMAGE, None, (5,)), MLP(7, None, (6,))]},
                takes(r"encoders\[1\]", "MLP", r"\(5,\)", MLP_OF.format(r"\(1, 5\)", 7)),
            ),
            *(
                (
                    part,
                    r"posteriors\[0\], transitions\[0\]: layer z1: found Independent\(Laplace\(.*\), 1\), expected a "
                    r"diagonal Gaussian, Normal\(\.\.\.\)\.to_event\(n\)$",
                )
                for part in ({"transitions": [laplace(2)]}, {"posteriors": [laplace(2), gaussian(6, 3)]})
            ),
            (
                {"transitions": [Part(lambda z: dist.MultivariateNormal(torch.zeros(len(z), 2), torch.eye(2)))]},
                r"posteriors\[0\], transitions\[0\]: layer z1: found MultivariateNormal\(.*expected a diagonal Gauss",
            ),
        ],
    )
    def test_in_the_ladder(self, arguments, message):
        with pytest.raises(ProgramError, match=f"^{message}"):
            ladder(**arguments)


class TestConvLadder:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"data_shape": (16,)},
                r"data_shape: found \(16,\), expected an image, \(height, width\) or \(channels, height, width\)$",
            ),
            ({"data_shape": (1, 1, 4, 4)}, r"data_shape: found \(1, 1, 4, 4\), expected an image"),
            ({"data_shape": (4, 0)}, r"data_shape: found \(4, 0\), expected positive integers$"),
            ({"channels": (4,)}, r"channels: found \(4,\), expected one for each of 2 levels$"),
            ({"latent_channels": (1, 2, 3)}, r"latent_channels: found \(1, 2, 3\), expected one for each of 2 levels$"),
            ({"num_layers": (1, 1, 1)}, r"latent_channels: found \(1, 2\), expected one for each of 3 levels$"),
            (
                {"latent_channels": (0, 1)},
                r"latent_channels: found \(0, 1\), expected integers of 1 or more, one for each level$",
            ),
            ({"channels": (4, 0)}, r"channels: found \(4, 0\), expected integers of 1 or more, one for each level$"),
            ({"channels": (4.0, 4)}, r"channels: found \(4\.0, 4\), expected integers of 1 or more"),
            ({"num_layers": (1, -1)}, r"num_layers: found \(1, -1\), expected integers of 0 or more, one for each"),
            ({"num_layers": ()}, r"num_layers: found \(\), expected integers of 0 or more, one for each level$"),
            ({"num_layers": (0, 0)}, r"num_layers: found \(0, 0\), expected a latent layer at one level or more$"),
            ({"num_blocks": 0}, r"num_blocks: found \[?0\]?, expected "),
            ({"likelihood": "poisson"}, "likelihood: found 'poisson', expected 'bernoulli', 'gaussian' or a module$"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            conv_ladder(**arguments)

    @pytest.mark.parametrize(
        ("likelihood", "message"),
        [
            (pixels(9), takes("likelihood", "Bernoulli", r"\(16,\)", MLP_OF.format(r"\(1, 16\)", 9))),
            (
                pixels(16, (3, 3)),
                r"likelihood: layer x: found a distribution of event shape \(3, 3\) and batch shape \(1,\), expected "
                r"the event shape \(4, 4\)$",
            ),
            (tensor(), f"likelihood: layer x: {TENSOR}"),
        ],
    )
    def test_a_likelihood_that_does_not_fit(self, likelihood, message):
        with pytest.raises(ProgramError, match=f"^{message}"):
            conv_ladder(likelihood=likelihood)
