"""Optimisers and schedulers: the slots that they have, and those of one's own, resume where they were."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from pyro_vae.runtime.tensor_files import read_tensors
from pyro_vae.training.optimizer_check import check_scheduler, check_slots, slots_of
from pyro_vae.training.plain import keys_kept
from tests.support.programs import bits, fit, same, vae, weights

X = bits(24)
STATE = "last.safetensors"
OPTIMIZERS = {
    name: lambda parameters, make=make: make(parameters, lr=0.1)
    for name, make in vars(torch.optim).items()
    if isinstance(make, type) and issubclass(make, torch.optim.Optimizer) and name not in ("Optimizer", "LBFGS")
}
OPTIMIZERS |= {
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "Adam, fused": lambda p: torch.optim.Adam(p, fused=True),
    "SGD, momentum": lambda p: torch.optim.SGD(p, momentum=0.9),
    "RMSprop, centered": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_slots_of_an_optimiser_are_those_of_its_first_steps(name):
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(2, 2))]
    optimizer, before = OPTIMIZERS[name](parameters), [parameter.detach().clone() for parameter in parameters]
    steps = []
    optimizer.register_step_post_hook(lambda *args: steps.append(1))
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # which patches the step of this one optimiser
    state, random = optimizer.state_dict(), torch.get_rng_state()
    slots = slots_of(optimizer)
    assert str(optimizer.state_dict()) == str(state) and steps == []
    assert all(map(torch.equal, parameters, before)) and all(parameter.grad is None for parameter in parameters)
    assert torch.equal(torch.get_rng_state(), random)
    for parameter in parameters:
        gradient = torch.randn_like(parameter)
        parameter.grad = gradient.to_sparse() if name == "SparseAdam" else gradient
    for _ in range(3):
        optimizer.step()
    found = optimizer.state_dict()["state"]
    check_slots("file", found, slots, sorted(found))
    for index in found:
        assert {slot: getattr(value, "dtype", None) for slot, value in found[index].items()} == {
            slot: getattr(value, "dtype", None) for slot, value in slots[index].items()
        }


SCHEDULERS = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    "milestones": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3]),
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o),
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "polynomial": lambda o: torch.optim.lr_scheduler.PolynomialLR(o),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "warm restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "sequence": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "chain": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "averaging": lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step\\(\\)`")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch_goes_on_from_where_it_was(name):
    def made(lr):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=lr, momentum=0.9)
        return optimizer, SCHEDULERS[name](optimizer)

    optimizer, scheduler = made(0.1)
    optimizer.param_groups[0]["params"][0].grad = torch.zeros(2)
    for step in range(6):
        optimizer.step()
        scheduler.step(*[1.0 + step] if name == "plateau" else [])
    document = json.loads(json.dumps(keys_kept(scheduler.state_dict())))
    check_scheduler("file", document, made(0.2)[1])
    with pytest.raises(ValueError, match="^file: scheduler: key 'step': found one, expected none"):
        check_scheduler("file", document | {"step": 0}, made(0.1)[1])


class Halving(torch.optim.lr_scheduler.LRScheduler):
    """A user's, with an attribute that changes."""

    def __init__(self, optimizer):
        self.num_halved = 0
        super().__init__(optimizer)

    def get_lr(self):
        self.num_halved += 1
        return [group["lr"] / 2 for group in self.optimizer.param_groups]


def test_any_number_of_a_scheduler_of_the_users_own_may_move():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    check_scheduler("file", keys_kept(Halving(optimizer).state_dict()) | {"num_halved": 7}, Halving(optimizer))
    with pytest.raises(ValueError, match="scheduler: num_halved: found 'x', expected such as 1"):
        check_scheduler("file", keys_kept(Halving(optimizer).state_dict()) | {"num_halved": "x"}, Halving(optimizer))


def test_a_parameter_that_never_had_a_gradient_has_no_slots(tmp_path):
    def program():
        torch.manual_seed(3)
        made = vae()
        made.guide.unused = torch.nn.Parameter(torch.zeros(2))
        made.model.recipe = made.guide.recipe = None
        return made

    whole, cut = program(), program()
    with pytest.warns(UserWarning, match=r"no gradient of 1 parameters .*\(guide.unused\)"):
        fit(whole, X)
        fit(cut, X, num_epochs=2, checkpoint=tmp_path)
    document = json.loads(read_tensors(tmp_path / STATE)[1]["run"])
    assert len(document["optimizer"]["slots"]) == len(list(cut.parameters())) - 1
    again = program()
    with pytest.warns(UserWarning, match=r"no gradient of 1 parameters"):
        fit(again, X, checkpoint=tmp_path, resume=True)
    assert same(weights(again), weights(whole))


class Decaying(torch.optim.lr_scheduler.LRScheduler):
    """Somebody's schedule of the weight decay."""

    def get_lr(self):
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.01 * self.last_epoch
        return [group["lr"] for group in self.optimizer.param_groups]


class Lookahead(torch.optim.SGD):
    """Somebody's optimiser, which makes a slot at its third step."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                if state["count"] == 3:
                    state["slow"] = parameter.detach().clone()


@pytest.mark.parametrize("options", [{"scheduler": Decaying}, {"optimizer": Lookahead}], ids=lambda o: str(*o))
def test_schedules_and_optimisers_of_ones_own_resume(options, tmp_path):
    torch.manual_seed(3)
    whole = vae()
    cut, again = copy.deepcopy(whole), copy.deepcopy(whole)
    fit(whole, X, **options)
    fit(cut, X, num_epochs=2, checkpoint=tmp_path, **options)
    fit(again, X, checkpoint=tmp_path, resume=True, **options)
    assert same(weights(again), weights(whole))
