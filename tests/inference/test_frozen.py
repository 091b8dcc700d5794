"""with_constant_parameters: the same densities of the same program, and no gradient to its parameters."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_vae import ELBO, IWAE, ProgramError, anneal_kl, fit
from pyro_vae.inference.frozen import check_runs_again, with_constant_parameters
from pyro_vae.schedules import Linear
from tests.support.closures import closing_over
from tests.support.programs import TutorialGuide, bits, refused, same, seeded, vae, weights

pytestmark = pytest.mark.usefixtures("double")


class Guide(PyroModule):
    """A guide with a plain parameter, a constrained one, a network and batch normalisation."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.scale = PyroParam(torch.tensor([0.5, 0.8]), constraint=dist.constraints.positive)
        self.network = nn.Sequential(nn.Linear(16, 2), nn.BatchNorm1d(2), nn.Dropout(dropout))

    def forward(self, x):
        return self.also(x)

    def also(self, x):
        with pyro.plate("data", len(x), dim=-1):
            loc = self.network(x.flatten(1)) + self.shift
            return pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))


def function(guide, x):
    return guide(x)


WRAPPINGS = {
    "module": lambda guide: guide,
    "method": lambda guide: guide.also,
    "partial": lambda guide: functools.partial(function, guide),
    "partial of a method": lambda guide: functools.partial(guide.also),
    "keyword of a partial": lambda guide: functools.partial(lambda x, guide: guide(x), guide=guide),
    "scaled": lambda guide: poutine.scale(guide, scale=0.5),
    "scaled method": lambda guide: poutine.scale(guide.also, scale=0.5),
    "annealed": lambda guide: anneal_kl(guide, guide, 0.5)[1],
    "annealed by a schedule": lambda guide: anneal_kl(guide, guide, Linear(2, start=0.5))[1],
    "annealed method": lambda guide: anneal_kl(guide.also, guide.also, 0.5)[1],
    "annealed, scaled": lambda guide: anneal_kl(*[poutine.scale(guide, scale=0.5)] * 2, 0.5)[1],
}


@pytest.fixture
def x():
    return bits(6).double()


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_same_densities_with_a_gradient_to_the_latents_alone(wrapping, x):
    guide = Guide()
    program = WRAPPINGS[wrapping](guide)
    expected = seeded(poutine.trace(program).get_trace, x)
    z = expected.nodes["z"]["value"].detach().requires_grad_()
    expected.compute_log_prob()
    before = weights(guide)
    latents = poutine.trace(lambda: pyro.sample("z", dist.Delta(z, event_dim=1))).get_trace()
    pyro.clear_param_store()
    found = poutine.trace(poutine.replay(with_constant_parameters(program), trace=latents)).get_trace(x)
    found.compute_log_prob()
    site, reference = found.nodes["z"], expected.nodes["z"]
    torch.testing.assert_close(site["log_prob"], reference["log_prob"], rtol=0, atol=1e-12)
    parameters = dict(guide.named_parameters())
    assert len(parameters) == 6
    gradients = torch.autograd.grad(site["log_prob"].sum(), [z, *parameters.values()], allow_unused=True)
    by_hand = -(z - site["fn"].base_dist.loc) / guide.scale.detach() ** 2 * site["scale"]
    torch.testing.assert_close(gradients[0], by_hand.detach(), rtol=0, atol=1e-12)
    assert gradients[1:] == (None,) * 6
    assert same(weights(guide), before)  # batch normalisation counts no second run
    assert all(parameter is dict(guide.named_parameters())[name] for name, parameter in parameters.items())
    assert list(pyro.get_param_store()) == []


def test_a_module_that_is_there_twice_keeps_its_parameters(x):
    """torch's functional_call would put the constants into such a module for good."""

    class Shared(Guide):
        def __init__(self):
            super().__init__()
            self.again = self.network
            self.tied = nn.Linear(16, 2)
            self.tied.weight = self.network[0].weight

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                loc = self.network(x.flatten(1)) + self.again(x.flatten(1)) + self.tied(x.flatten(1))
                return pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))

    guide = Shared()
    parameters = dict(guide.named_parameters(remove_duplicate=False))
    found = poutine.trace(with_constant_parameters(functools.partial(function, guide, x=x))).get_trace()
    assert not found.nodes["z"]["fn"].log_prob(torch.zeros(6, 2)).requires_grad
    after = dict(guide.named_parameters(remove_duplicate=False))
    assert after.keys() == parameters.keys() and all(after[name] is parameters[name] for name in parameters)
    assert guide.network[1].num_batches_tracked == 0


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_an_objective_counts_one_run_of_the_guide(gradient, weight, x):
    """Batch statistics after one bound are the same whatever the gradient, and the gradient is another."""
    model, results = vae().model, []
    for kind in ("reparam", gradient):
        torch.manual_seed(1)
        guide = Guide()
        loss = seeded(IWAE(3, gradient=kind).differentiable_loss, *anneal_kl(model, guide, weight), x)
        results.append((loss, weights(guide), torch.autograd.grad(loss, list(guide.parameters()))))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=0)
    assert same(results[0][1], results[1][1])
    assert results[0][1]["0.network.1.num_batches_tracked"] == 1
    if weight:  # without any log q the score is nothing, and sticking the landing drops it
        assert not torch.allclose(results[0][2][0], results[1][2][0])


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_dropout_is_refused_while_it_is_on(wrapping):
    program = WRAPPINGS[wrapping](guide := Guide(dropout=0.1))
    message = r"module 'network.2': found Dropout\(p=0.1.*\) in the guide, which is run twice"
    for call in (with_constant_parameters, check_runs_again):
        with pytest.raises(ProgramError, match=message):
            call(program)
    guide.eval()
    with_constant_parameters(program)
    with pytest.raises(ProgramError, match=message):
        check_runs_again(program)
    with_constant_parameters(WRAPPINGS[wrapping](Guide()))  # dropout of probability 0 drops nothing


def test_a_function_with_bare_params_trains_under_svi(x):
    """Sticking the landing where q is the posterior's family: value and gradient by hand."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.4))
        scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, scale))

    x = x.flatten(1).mean(1)
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.01}), loss=ELBO(gradient="stl"))
    seeded(svi.step, x)
    assert set(pyro.get_param_store().keys()) == {"loc", "scale"}
    torch.manual_seed(3)
    noise = torch.randn(len(x))
    z = 0.4 + 0.7 * noise
    path = -z + (x - z) + noise / 0.7  # d/dz of log p(x, z) - log q(z)
    assert pyro.param("loc").item() == pytest.approx(0.4 + 0.01 * path.sum().item(), abs=1e-12)
    moved = torch.tensor(0.7).log() + 0.01 * (path * noise * 0.7).sum()  # the store holds its logarithm
    assert pyro.param("scale").item() == pytest.approx(moved.exp().item(), abs=1e-12)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_svi_takes_the_step_of_that_gradient(gradient, x):
    program = vae()
    objective = IWAE(3, gradient=gradient)
    loss = seeded(objective.differentiable_loss, program.model, program.guide, x)
    gradients = torch.autograd.grad(loss, list(program.parameters()))
    expected = [p.detach() - 0.01 * g for p, g in zip(program.parameters(), gradients, strict=True)]
    seeded(SVI(program.model, program.guide, pyro.optim.SGD({"lr": 0.01}), loss=objective).step, x)
    for parameter, reference in zip(program.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), reference, rtol=0, atol=1e-12)


def test_a_function_that_closes_over_a_module(x):
    """As good as the module: sticking the landing drops the score, which the gradient by its weight would show."""
    network = nn.Linear(16, 2)

    class Same(PyroModule):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return closing_over(self.network)(x)

    model = vae().model
    found = [
        torch.autograd.grad(seeded(IWAE(2, gradient="stl").bound, model, guide, x).sum(), network.weight)[0]
        for guide in (closing_over(network), Same())
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    kept = torch.autograd.grad(seeded(IWAE(2).bound, model, Same(), x).sum(), network.weight)[0]
    assert (kept - found[0]).abs().max() > 1e-3


def test_noise_of_a_guides_own_is_found_before_training(tmp_path):
    """Dropout as a function is no module to be found by name; two runs on the same latents tell."""

    class Noisy(TutorialGuide):
        def forward(self, x):
            super().forward(nn.functional.dropout(x, 0.5, self.training))

    program = vae()
    message = "^site 'z': found another density of the same latents when the guide ran again"
    refused(program.model, Noisy(), bits(10), ProgramError, message, tmp_path, objective=ELBO(gradient="stl"))
    fit(program.model, Noisy(), bits(10), num_epochs=1, batch_size=5, progress=False)
