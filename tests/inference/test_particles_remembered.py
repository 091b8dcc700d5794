"""What ``"auto"`` finds out of programs: it is not used for others, nor hidden by the weights that they begin with."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import pytest
from torch import Tensor, nn

import pyro_vae
from pyro_vae import log_weights
from tests.support.one_particle import X

pytestmark = pytest.mark.usefixtures("double")
WARNING = "^vectorize_particles: found programs that take no dimension of particles"


class Mixing(nn.Module):
    """A softmax over the data or, in a plate of particles, over these; of latents alone, so that repeats take it."""

    def forward(self, h):
        return 5 * h.softmax(1)


class LocAndScale(nn.Sequential):
    """The two outputs of a Gaussian likelihood."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).unflatten(-1, (2, 4))


class Programs(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last, self.mixes, self.dim = nn.Linear(2, 4), last, False, -1

    def model(self, x, bad=False):
        pyro.module("programs", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = self.last(self.first(z))
            loc = Mixing()(loc) if bad or self.mixes else loc
            loc = loc + 3 * loc.softmax(self.dim)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


class TestRemembered:
    @pytest.mark.parametrize("change", ["a flag", "a number", "a bound argument", "another part"])
    def test_a_changed_program_is_tried_out_again(self, change):
        pair = Programs(nn.Identity())
        model = pair.model
        log_weights(functools.partial(model, bad=False), pair.guide, X, 3)  # without a warning
        log_weights(model, pair.guide, X, 3)
        if change == "a flag":
            pair.mixes = True
        elif change == "a number":
            pair.dim = 1  # of a matrix the last one, too
        elif change == "another part":
            pair.last = Mixing()
        else:
            model = functools.partial(model, bad=True)
        with pytest.warns(UserWarning, match=WARNING):
            log_weights(model, pair.guide, X, 3)

    def test_a_counter_is_not_tried_out_for_ever(self):
        pair, calls = Programs(nn.Identity()), []
        pair.first.register_forward_hook(lambda *_: calls.append(1))
        for step in range(30):
            pair.num_steps = step
            calls.clear()
            log_weights(pair.model, pair.guide, X, 3)
        assert len(calls) == 1

    def test_other_data_that_are_bound_are_not(self):
        """As in a loop over batches of data and labels, where each has tensors of its own."""
        pair, calls = Programs(nn.Identity()), []
        pair.first.register_forward_hook(lambda *_: calls.append(1))

        def model(x, y, weight):
            pair.model(x)

        for step in range(3):
            calls.clear()
            log_weights(functools.partial(model, y=X.clone(), weight=0.1 * step), pair.guide, X, 3)
        assert len(calls) == 1

    def test_a_packaged_program_with_a_part_of_a_users_own(self):
        vae = pyro_vae.VAE((4,), 2, (3,), likelihood="gaussian").double()
        log_weights(vae.model, vae.guide, X, 3)  # without a warning
        vae.model.likelihood.network = LocAndScale(nn.Linear(2, 8), Mixing()).double()
        with pytest.warns(UserWarning, match=WARNING):
            log_weights(vae.model, vae.guide, X, 3)


class TestAtTheStart:
    def test_a_last_layer_that_begins_at_zero(self):
        """It hides what comes before it, until it is trained."""
        last = nn.Sequential(Mixing(), nn.Linear(4, 4))
        nn.init.zeros_(last[1].weight)
        pair = Programs(last)
        with pytest.warns(UserWarning, match=WARNING):
            log_weights(pair.model, pair.guide, X, 3)

    def test_as_many_features_of_batch_normalisation_as_data(self):
        """Without statistics yet, it is the identity in eval mode, whichever dimension it takes for the features."""
        pair = Programs(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)))
        with pytest.warns(UserWarning, match=WARNING):
            log_weights(pair.model, pair.guide, X, 3)
