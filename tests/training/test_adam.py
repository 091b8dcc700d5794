"""Adam as a function of gradients, against torch's own in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from pyro_vae.training.adam import Adam
from pyro_vae.training.compiled_update import clipped

RATES = [0.1, 0.05, 0.0, 0.02, 0.01]


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in ((3, 4), (5,), ())]


def gradients(step):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters()]


def step_by_torch(optimizer, params, step, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate
    for parameter, gradient in zip(params, gradients(step), strict=True):
        parameter.grad = gradient if parameter.requires_grad else None
    optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.Adam,
        partial(torch.optim.Adam, weight_decay=0.1),
        partial(torch.optim.Adam, betas=(0.5, 0.9), eps=1e-3, fused=True),
        torch.optim.AdamW,
        partial(torch.optim.AdamW, weight_decay=0.3, foreach=True),
    ],
)
class TestAdam:
    def both(self, make):
        """The parameters and optimisers of two runs that have taken a step of torch's."""
        found = []
        for _ in range(2):
            params = parameters()
            optimizer = make(params, lr=0.1)
            step_by_torch(optimizer, params, 0, 0.1)
            found.append((params, optimizer))
        return found

    def check(self, found, expected):
        """The states agree to rounding: 5 steps of numbers of size 1, in float64."""
        (params, optimizer), (others, reference) = found, expected
        for parameter, other in zip(params, others, strict=True):
            torch.testing.assert_close(parameter, other, rtol=1e-13, atol=1e-14)
            for name, value in reference.state[other].items():
                torch.testing.assert_close(optimizer.state[parameter][name], value, rtol=1e-13, atol=1e-14)

    def test_steps_are_torchs(self, make):
        (params, optimizer), (others, reference) = found, expected = self.both(make)
        adam = Adam(optimizer)
        adam.arrange()
        factors = adam.factors([[rate] for rate in RATES])
        assert adam.unfit() is None and len(adam.columns) == 1
        for index, rate in enumerate(RATES):
            adam.move(dict(zip(params, gradients(index + 1), strict=True)), factors[index])
            step_by_torch(reference, others, index + 1, rate)
        self.check(found, expected)

    def test_parameters_that_have_taken_other_numbers_of_steps(self, make):
        (params, optimizer), (others, reference) = found, expected = self.both(make)
        for each, their in ((params, optimizer), (others, reference)):
            each[1].requires_grad_(False)
            step_by_torch(their, each, 1, 0.1)
            each[1].requires_grad_(True)
        adam = Adam(optimizer)
        adam.arrange()
        assert [len(columns) for _, columns in adam.columns] == [2, 1]
        adam.move(dict(zip(params, gradients(2), strict=True)), adam.factors([[0.1]])[0])
        step_by_torch(reference, others, 2, 0.1)
        self.check(found, expected)

    def test_a_parameter_without_a_gradient_stays(self, make):
        (params, optimizer), _ = self.both(make)
        adam, before = Adam(optimizer), params[2].detach().clone()
        adam.arrange()
        adam.move({params[0]: gradients(1)[0]}, adam.factors([[0.1]])[0])
        assert torch.equal(params[2], before)


def test_groups_have_rates_of_their_own():
    found = []
    for own in (True, False):
        params = parameters()
        optimizer = torch.optim.Adam([{"params": params[:1], "lr": 0.1}, {"params": params[1:], "betas": (0.5, 0.6)}])
        for parameter, gradient in zip(params, gradients(0), strict=True):
            parameter.grad = gradient
        optimizer.step()
        if own:
            adam = Adam(optimizer)
            adam.arrange()
            factors = adam.factors([[group["lr"] for group in optimizer.param_groups]])
            adam.move({parameter: parameter.grad for parameter in params}, factors[0])
        else:
            optimizer.step()
        found.append(params)
    for parameter, other in zip(*found, strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (partial(torch.optim.SGD, lr=0.1), "found SGD, expected torch's Adam or AdamW"),
        (partial(torch.optim.Adam, amsgrad=True), "found Adam with amsgrad=True"),
        (partial(torch.optim.Adam, maximize=True), "found Adam with maximize=True"),
        (partial(torch.optim.Adam, lr=torch.tensor(0.1), foreach=False), "found Adam with a tensor for a number"),
    ],
)
def test_what_is_another_step_is_not_taken_for_it(make, reason):
    assert Adam(make(parameters())).unfit() == reason


def test_a_first_gradient_is_not_passed_over():
    params = parameters()
    params[0].requires_grad_(False)
    optimizer = torch.optim.Adam(params, lr=0.1)
    step_by_torch(optimizer, params, 0, 0.1)
    adam = Adam(optimizer)
    adam.arrange()
    assert adam.has_state() and adam.without_state() == []
    params[0].requires_grad_(True)
    assert adam.without_state() == [params[0]]
    with pytest.raises(RuntimeError, match="first gradient, and no state of the optimiser"):
        adam.move(dict(zip(params, gradients(1), strict=True)), adam.factors([[0.1]])[0])


@pytest.mark.parametrize("largest", [None, 0.3, 100.0])
def test_clipping_is_torchs(largest):
    params = parameters()
    found = clipped(dict(zip(params, gradients(0), strict=True)), largest)
    for parameter, gradient in zip(params, gradients(0), strict=True):
        parameter.grad = gradient
    if largest is not None:
        nn.utils.clip_grad_norm_(params, largest)
    for parameter in params:
        torch.testing.assert_close(found[parameter], parameter.grad, rtol=1e-13, atol=0)
