"""Flows that cannot be: each is refused by name."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import MLP, Flow, FlowPosterior, FlowPrior
from pyro_vae.flows import FlowDistribution
from tests.support.flows import WITHOUT_INVERSE, drawn_from
from tests.support.programs import IMAGE


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("circular", 2), "^transforms: found 'circular', expected one of 'autoregressive', 'spline', 'coupling'"),
            (("spline", 0), "^latent_dim: found 0, expected an integer of 1 or more"),
            (("spline", 2, -1), "^context_dim: found -1, expected an integer of 0 or more"),
            (([dist.transforms.Sylvester(2)], 2), "^transforms: found Pyro's Sylvester, whose log-determinant is not"),
            (("spline", 2, 0, 0), "^num_transforms: found 0, expected an integer of 1 or more"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Flow(*arguments)

    @pytest.mark.parametrize("flow", [nn.Linear(2, 2), "spline", None])
    def test_what_is_no_flow(self, flow):
        for make in (FlowPrior, lambda f: FlowPosterior(f, MLP(IMAGE, 3))):
            with pytest.raises(
                TypeError, match=rf"^flow: found {type(flow).__name__}, expected a Flow, or a flow of Zuko"
            ):
                make(flow)

    @pytest.mark.parametrize("name", WITHOUT_INVERSE)
    def test_a_prior_that_cannot_be_drawn_from(self, name):
        with pytest.raises(
            ValueError, match="^flow: found one without an inverse, expected one that can be drawn from"
        ):
            FlowPrior(Flow(name, 2))

    def test_a_prior_that_wants_a_context(self):
        with pytest.raises(ValueError, match="^flow: found one that does not run without a context"):
            FlowPrior(Flow("coupling", 2, context_dim=3))

    def test_the_mean_is_not_known_but_the_center_is(self):
        _, q = drawn_from("coupling")
        with pytest.raises(NotImplementedError):
            _ = q.mean
        torch.testing.assert_close(q.center, q.transform(q.base.mean))

    def test_a_pyro_plate_may_expand_it(self):
        q = FlowDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.transforms.Householder(2))
        assert q.expand((4, 3)).rsample().shape == (4, 3, 2) and q.expand_by((5,)).batch_shape == (5,)
