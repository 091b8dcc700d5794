"""The parameters of a hierarchy: what both halves share is stored, registered and stepped once."""

from __future__ import annotations

import copy

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import nn

from pyro_vae import ELBO, ConvLadderVAE, training
from tests.support.hierarchies import SHARING, X
from tests.support.programs import HIERARCHIES, IMAGE, named, seeded


class Registrations(Messenger):
    """The names of the parameters that Pyro was told of under it, one for each time."""

    def __init__(self):
        super().__init__()
        self.names = []

    def _pyro_param(self, msg):
        self.names.append(msg["name"].replace("$$$", "."))


def parameters(program):
    """Every parameter once, by its name in Pyro's store."""
    return {**dict(program.model.named_parameters()), **dict(program.guide.named_parameters())}


def twins(name):
    """Two programs with the same weights, in float64."""
    programs = [HIERARCHIES[name]().double() for _ in range(2)]
    programs[1].load_state_dict(programs[0].state_dict())
    return programs


class TestParameters:
    @pytest.mark.parametrize("loss", [Trace_ELBO(), ELBO()], ids=named)
    def test_the_store_holds_each_once_and_svi_steps_each_once(self, name, loss, double):
        program, twin = twins(name)
        x, lr = X.double(), 0.05
        torch.manual_seed(3)
        ELBO().differentiable_loss(twin.model, twin.guide, x).backward()
        expected = {n: p.detach() - lr * p.grad for n, p in parameters(twin).items()}
        svi = SVI(program.model, program.guide, pyro.optim.SGD({"lr": lr}), loss=loss)
        torch.manual_seed(3)
        svi.step(x)
        stored = {n.replace("$$$", "."): p for n, p in pyro.get_param_store().get_state()["params"].items()}
        own = parameters(program)
        assert stored.keys() == own.keys()
        assert {n: p.data_ptr() for n, p in stored.items()} == {n: p.data_ptr() for n, p in own.items()}
        assert len({p.data_ptr() for p in stored.values()}) == len(list(program.parameters()))
        for n, parameter in own.items():
            torch.testing.assert_close(parameter.detach(), expected[n], rtol=1e-6, atol=1e-12, msg=n)
        # Twice the step would be seen: each shared module has moved by more than that.
        before = twin.state_dict()
        for module in ("transitions", "way_down"):
            if hasattr(program.guide, module):
                moved = [(own[n] - before[f"model.{n}"]).abs().max() for n in own if n.startswith(module)]
                assert max(moved) > 1e-4

    def test_a_run_registers_each_once(self, program):
        # At each reading of a submodule Pyro registers all the parameters in it: read in a loop, each once a layer.
        for half in (program.model, program.guide):
            with pyro.get_param_store().scope(), Registrations() as registrations:
                half(X)
            assert sorted(registrations.names) == sorted(dict(half.named_parameters()))

    def test_pyros_optimiser_counts_one_step_of_each(self, name):
        program = HIERARCHIES[name]()
        svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), loss=Trace_ELBO())
        svi.step(X)
        optimizers = svi.optim.optim_objs
        assert {id(parameter) for parameter in optimizers} == {id(p) for p in program.parameters()}
        for parameter, optimizer in optimizers.items():
            assert [*optimizer.state] == [parameter] and float(optimizer.state[parameter]["step"]) == 1

    def test_fit_steps_each_once(self, name, double):
        program, twin = twins(name)
        x, lr = X[:1].double().expand(5, *IMAGE).clone(), 0.05  # equal data: fit shuffles them

        class Seeded(ELBO):
            def estimate(self, *args, **options):
                return seeded(super().estimate, *args, **options)

        seeded(ELBO().differentiable_loss, twin.model, twin.guide, x).div(5).backward()
        expected = {n: p.detach() - lr * p.grad for n, p in parameters(twin).items()}
        training.fit(program.model, program.guide, x, objective=Seeded(), optimizer=torch.optim.SGD, lr=lr,
                     num_epochs=1, batch_size=5, seed=0, progress=False)  # fmt: skip
        for n, parameter in parameters(program).items():
            torch.testing.assert_close(parameter.detach(), expected[n], rtol=1e-6, atol=1e-12, msg=n)

    @pytest.mark.parametrize("name", SHARING)
    def test_what_the_halves_share_is_one_set_of_modules(self, name, program):
        shared = "way_down" if name == "conv-ladder" else "transitions"
        for copied in (program, copy.deepcopy(program)):
            assert getattr(copied.model, shared) is getattr(copied.guide, shared)
        names = [n for n, _ in program.named_parameters(remove_duplicate=False)]
        twice = [n for n in names if f".{shared}." in n]
        assert len(names) - len(list(program.parameters())) == len(twice) / 2 > 0

    @pytest.mark.parametrize("name", ["hvae", "hvae-top-down"])
    def test_the_guide_of_a_chain_has_parameters_of_its_own(self, program):
        assert not {*program.model.parameters()} & {*program.guide.parameters()}
        assert not {*dict(program.model.named_parameters())} & {*dict(program.guide.named_parameters())}

    def test_after_a_step_the_gradient_reaches_each_from_where_the_constructor_starts(self):
        # At first the state at the top is zero, and silu(0) = 0 hides what acts on it from the gradient, for a step.
        program = ConvLadderVAE(IMAGE, num_layers=(1, 1), latent_channels=(1, 2), channels=(4, 4))
        optimizer = torch.optim.SGD(program.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            ELBO().differentiable_loss(program.model, program.guide, X).backward()
            optimizer.step()
        for n, parameter in program.named_parameters():
            assert (parameter.grad != 0).any(), n


def test_modules_of_batch_norm_are_in_the_encoders_and_transitions_alone():
    program = HIERARCHIES["ladder-batch-norm"]()
    normed = {n.split(".")[1] for n, m in program.named_modules() if isinstance(m, nn.BatchNorm1d)}
    assert normed == {"encoders", "transitions"}
    assert not any(isinstance(m, nn.BatchNorm1d) for m in HIERARCHIES["ladder"]().modules())
