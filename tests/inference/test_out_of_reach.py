"""Parameters that cannot be held constant are refused where a gradient leaves the score out."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import ELBO, IWAE, ProgramError
from pyro_vae.inference.frozen import with_constant_parameters
from tests.support.closures import closing_over
from tests.support.programs import bits, vae

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture
def x():
    return bits(3)


def test_parameters_out_of_reach_are_named(x):
    hidden = type("Hidden", (), {"run": staticmethod(closing_over(nn.Linear(16, 2)))})  # classes are not looked through
    guide = lambda x: hidden.run(x)  # noqa: E731
    message = r"parameter 'network\$\$\$weight': found in a module that the guide closes over, expected the guide to be"
    with pytest.raises(ProgramError, match=message):
        with_constant_parameters(guide)(x)
    with pytest.raises(ProgramError, match=message):
        ELBO(gradient="dreg").bound(vae().model, guide, x)
    ELBO().bound(vae().model, guide, x)  # with the gradient that needs no second run


class Plain:
    """A guide that is a method of an object that is no module."""

    def __init__(self):
        self.loc = nn.Parameter(torch.tensor([0.1, -0.2]))

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x), 2), 1.0).to_event(1))


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_tensors_out_of_reach_are_refused(x, gradient):
    """Their score would be kept, which points another way than the gradient without it."""
    loc = torch.tensor([0.1, -0.2], requires_grad=True)

    def closing_over_a_tensor(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))

    model, plain = vae().model, Plain()
    for guide in (closing_over_a_tensor, plain.guide):
        for _ in range(2):
            with pytest.raises(ProgramError, match="^site 'z': found a density with a gradient by parameters that"):
                IWAE(3, gradient=gradient).bound(model, guide, x)
        IWAE(3).bound(model, guide, x)
    loc.requires_grad_(False)
    IWAE(3, gradient=gradient).bound(model, closing_over_a_tensor, x)
