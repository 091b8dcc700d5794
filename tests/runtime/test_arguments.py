"""Arguments: every wrong one is refused by its name, before anything is moved, and none that makes sense."""

from __future__ import annotations

import functools
import math
import timeit
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyro_vae
from pyro_vae.runtime.arguments import (
    Device,
    NonNegativeNumber,
    PositiveInteger,
    PositiveNumber,
    Seed,
    Widths,
    check,
    checked,
    kind_of,
)
from tests.runtime.fuzz import OUTCOMES, run
from tests.support.programs import bits, same, vae, weights

HUGE = 10**30


def test_fuzzed_calls():
    """Four hundred calls, each with one value that no one means; ``make fuzz-calls`` makes ten thousand."""
    outcomes = run(400, seed=20)
    wrong = [outcome for outcome in outcomes if outcome.kind not in ("returned", "refused")]
    assert not wrong, wrong
    counts = Counter(outcome.kind for outcome in outcomes)
    assert counts["refused"] > 200 and counts["returned"] > 0 and counts.keys() <= set(OUTCOMES)


class TestKinds:
    @pytest.mark.parametrize(
        ("annotation", "taken", "refused"),
        [
            (PositiveInteger, (1, 7), (0, -1, True, 1.0, "1", None, HUGE, 2**31, np.int64(2), torch.tensor(1))),
            (PositiveNumber, (1, 0.5, np.float32(2.0), np.int64(2)), (0, -1.0, True, math.nan, math.inf, "1", HUGE)),
            (NonNegativeNumber | None, (0, 0.0, None), (-0.1, math.inf, np.bool_(True))),
            (Seed, (0, 2**63 - 1), (-1, 2**63, 1.0, None, False)),
            (float, (1, -0.5, math.inf, math.nan), (True, "1", 1j, HUGE, torch.tensor(1.0))),
            (bool, (True, False), (0, 1, None, "yes", np.bool_(True))),
            (str, ("", "a"), (b"a", None, 1)),
            (Literal["a", "b"], ("a",), ("c", ["a"], np.array(["a", "b"]), torch.ones(2), None, 1)),
            (Literal["auto"] | bool, ("auto", True), (1, "yes", None)),
            (
                Widths,
                ((), [3], np.array([2, 2]), range(1, 3)),
                ([True], "3", b"3", [2.0], np.array([2.0]), {2}, 2, [0]),
            ),
            (nn.Module, (nn.Linear(1, 1),), (nn.Linear, len, None, 1)),
            (Tensor, (torch.ones(1), torch.tensor(1)), (np.ones(1), torch.ones(1, device="meta"), [1.0])),
            (Sequence[nn.Module], ([nn.Linear(1, 1)], nn.ModuleList()), ([1], nn.Linear(1, 1), "x")),
            (Callable[..., Any], (len, nn.Linear), (1, None)),
            (Device, ("cpu", torch.device("cpu")), ("meta", "x", "", torch.ones(1), 0, torch.device("meta"))),
        ],
    )
    def test_what_belongs_to_an_annotation(self, annotation, taken, refused):
        kind = kind_of(annotation)
        for value in taken:
            assert kind.accepts(value), value
            kind.check("a", value)
        for value in refused:
            with pytest.raises((ValueError, TypeError), match=r"^a(\[0\])?: found .*, expected "):
                kind.check("a", value)

    @pytest.mark.parametrize("annotation", [Any, int, object, tuple[int, ...], int | str, list[int], "unknown"])
    def test_others_are_left_to_the_function(self, annotation):
        assert kind_of(annotation) is None

    def test_words_beside_a_type_are_those_of_the_message(self):
        kind = kind_of(Annotated[nn.Module, "a module whose forward is a distribution"] | None)
        with pytest.raises(TypeError, match="^prior: found int, expected a module whose forward is a distribution$"):
            kind.check("prior", 3)

    def test_a_shape_has_a_product(self):
        with pytest.raises(ValueError, match=r"^data_shape: found .*, expected positive integers, each and their prod"):
            pyro_vae.VAE((2**16, 2**16), 2)

    def test_a_value_whose_repr_fails(self):
        class Silent:
            def __repr__(self):
                raise KeyError

        with pytest.raises(ValueError, match="^seed: found Silent, expected an integer from 0"):
            kind_of(Seed).check("seed", Silent())


class TestChecked:
    def test_a_call_costs_microseconds(self):
        @checked
        def call(num_samples: PositiveInteger, lr: PositiveNumber = 1.0, seed: Seed | None = None) -> None:
            pass

        call(1)
        assert min(timeit.repeat(lambda: call(1, lr=0.1, seed=3), number=100, repeat=5)) / 100 < 1e-4

    def test_names_and_words_are_those_of_the_function(self):
        assert pyro_vae.fit.__name__ == "fit" and "Train a model" in pyro_vae.fit.__doc__
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'data'"):
            pyro_vae.fit(None, None)
        with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
            pyro_vae.fit(None, None, None, epochs=3)

    def test_only_what_is_given_is_checked(self):
        check(pyro_vae.IWAE.__init__, {"max_plate_nesting": 1, "other": object()})


class TestConstructors:
    def test_of_a_class_outside_the_package(self):
        """Its own annotations mean what they mean to it; those of the constructor that it calls are held."""

        class Mine(pyro_vae.StandardNormal):
            def __init__(self, latent_dim: str, extra: NonNegativeNumber = -1.0) -> None:
                super().__init__(int(latent_dim))

        assert Mine("3").latent_dim == 3 and Mine("3").recipe is None
        with pytest.raises(ValueError, match="^latent_dim: found 0, expected a positive integer$"):
            Mine("0")

        class Unknown(pyro_vae.IWAE):
            def __init__(self, k: NoSuchName) -> None:  # noqa: F821
                super().__init__(num_particles=k)

        assert Unknown(3).num_particles == 3
        with pytest.raises(ValueError, match="^num_particles: found True, expected a positive integer$"):
            Unknown(True)

    def test_an_inherited_one(self):
        class Mine(pyro_vae.MLP):
            pass

        with pytest.raises(ValueError, match="^activation: found 3, expected one of 'tanh', "):
            Mine(2, 2, activation=3)


class TestDevice:
    @pytest.mark.parametrize(
        "device", [torch.ones(2), 0, "meta", torch.device("meta"), "gpu", "cuda:99", torch.float64]
    )
    def test_it_is_refused_before_anything_is_moved(self, device):
        program = vae()
        before = weights(program)
        with pytest.raises(ValueError, match="^device: found .*, expected a device that there is here"):
            pyro_vae.fit(program.model, program.guide, bits(20), device=device, progress=False)
        assert same(weights(program), before) and not any(p.is_meta for p in program.parameters())


class TestFunctionsThatAreGiven:
    """What a function returns is an argument too."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lr": lambda fraction: math.nan}, "^lr: found nan, expected a positive number$"),
            ({"lr": lambda fraction: None}, "^lr: found None, expected a positive number$"),
            ({"lr": lambda: 1.0}, r"^lr: found <function .*>, which fails at 0.0 \(TypeError: .*, expected a function"),
            (
                {"optimizer": lambda *_, lr: None},
                "^optimizer: found one that makes a NoneType, expected a torch Optimizer$",
            ),
            ({"optimizer": torch.optim.SGD, "scheduler": lambda _: 1 / 0}, r"^scheduler: found .*ZeroDivisionError: "),
            ({"callbacks": [print, 3]}, r"^callbacks\[1\]: found int, expected a function$"),
        ],
    )
    def test_it_is_refused(self, options, message):
        program = vae()
        before = weights(program)
        with pytest.raises((ValueError, TypeError), match=message):
            pyro_vae.fit(program.model, program.guide, bits(20), batch_size=5, progress=False, **options)
        assert same(weights(program), before)


@pytest.mark.parametrize("half", ["model", "guide"])
def test_what_is_no_program(half):
    program = vae()
    for call in (
        functools.partial(pyro_vae.refine, num_steps=1, progress=False),
        functools.partial(pyro_vae.impute, num_particles=2),
        functools.partial(pyro_vae.log_likelihood, num_particles=2),
        pyro_vae.diagnose,
        pyro_vae.log_weights,
    ):
        for wrong in (5, None, nn.Linear, torch.distributions.Normal(0.0, 1.0)):
            pair = {"model": program.model, "guide": program.guide} | {half: wrong}
            with pytest.raises(TypeError, match=f"^{half}: found {type(wrong).__name__}, expected a program, which is"):
                call(**pair, x=bits(6))
