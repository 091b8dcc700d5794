"""Adam as a function of gradients, against torch's own in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from pyro_vae.training.adam import Adam
from pyro_vae.training.update import clipped

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
        adam.arrange(params)
        factors = adam.factors([[rate] for rate in RATES])
        assert adam.unfit() is None and len(adam.columns) == 1
        for index, rate in enumerate(RATES):
            adam.move(gradients(index + 1), *adam.tensors(), factors[index])
            step_by_torch(reference, others, index + 1, rate)
        self.check(found, expected)

    def test_parameters_that_have_taken_other_numbers_of_steps(self, make):
        (params, optimizer), (others, reference) = found, expected = self.both(make)
        for each, their in ((params, optimizer), (others, reference)):
            each[1].requires_grad_(False)
            step_by_torch(their, each, 1, 0.1)
            each[1].requires_grad_(True)
        adam = Adam(optimizer)
        adam.arrange(params)
        assert [len(columns) for _, columns in adam.columns] == [2, 1]
        by_parameter = dict(zip(map(id, params), gradients(2), strict=True))
        adam.move([by_parameter[id(p)] for p in adam.order()], *adam.tensors(), adam.factors([[0.1]])[0])
        step_by_torch(reference, others, 2, 0.1)
        self.check(found, expected)

    def test_a_parameter_without_a_gradient_stays_and_counts_no_step(self, make):
        (params, optimizer), (others, reference) = found, expected = self.both(make)
        adam = Adam(optimizer)
        adam.arrange(params[:2])
        adam.move(gradients(1)[:2], *adam.tensors(), adam.factors([[0.1]])[0])
        for parameter, gradient in zip(others, [*gradients(1)[:2], None], strict=True):
            parameter.grad = gradient
        reference.step()
        self.check(found, expected)

    def test_counts_that_were_changed_in_place_are_read_anew(self, make):
        (params, optimizer), (others, reference) = found, expected = self.both(make)
        adam = Adam(optimizer)
        adam.arrange(params)
        for each, their in ((params, optimizer), (others, reference)):
            their.state[each[0]]["step"].fill_(7.0)
        adam.arrange(params)
        by_parameter = dict(zip(map(id, params), gradients(1), strict=True))
        adam.move([by_parameter[id(p)] for p in adam.order()], *adam.tensors(), adam.factors([[0.1]])[0])
        step_by_torch(reference, others, 1, 0.1)
        self.check(found, expected)


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
            adam.arrange(params)
            factors = adam.factors([[group["lr"] for group in optimizer.param_groups]])
            adam.move([parameter.grad for parameter in adam.order()], *adam.tensors(), factors[0])
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


def test_a_step_of_the_optimisers_own_is_not_passed_over():
    params = parameters()
    optimizer = torch.optim.Adam(params, lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # wraps the step
    assert Adam(optimizer).unfit() is None
    optimizer.step = lambda closure=None: None
    assert Adam(optimizer).unfit() == "Adam has a hook"


def test_numbers_of_a_step_do_not_depend_on_how_many_are_asked_for():
    factors = []
    for lengths in ([40], [1, 3, 36]):
        params = parameters()
        optimizer = torch.optim.Adam(params, lr=0.1)
        step_by_torch(optimizer, params, 0, 0.1)
        adam = Adam(optimizer)
        adam.arrange(params)
        factors.append(torch.cat([adam.factors([[0.1]] * length) for length in lengths]))
    assert torch.equal(*factors)


@pytest.mark.parametrize("largest", [None, 0.3, 100.0])
def test_clipping_is_torchs(largest):
    params = parameters()
    found = clipped(gradients(0), largest)
    for parameter, gradient in zip(params, gradients(0), strict=True):
        parameter.grad = gradient
    if largest is not None:
        nn.utils.clip_grad_norm_(params, largest)
    for gradient, parameter in zip(found, params, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-13, atol=0)
