"""A program that is no longer what its recipe says is refused by the name of the part; all others pass."""

from __future__ import annotations

import functools
import re

import pyro
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import pyro_vae
from pyro_vae import MLP, DiagonalNormal, StandardNormal, anneal_kl, observed_only, training
from pyro_vae.training.checkpoint import as_module, recipe_of
from tests.support.parts import IMAGE, composed, likelihood
from tests.support.programs import HIERARCHIES, bits, refused, vae, weights


def prior_of_its_own(program):
    program.model.prior = StandardNormal(3)


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # by torch.compile


def laplace(program):
    program.model.likelihood = likelihood("laplace", "mlp")


def activation(program):
    program.model.likelihood.network.hidden[1] = nn.ReLU()


def range_of_counts(program):
    program.model.likelihood.high = 10


def hook(program):
    program.guide.posterior.register_forward_hook(lambda *args: None)


def hook_before(program):
    program.model.likelihood.network.register_forward_pre_hook(lambda *args: None)


def spectral(program):
    parametrizations.spectral_norm(program.model.likelihood.network.output)


def compiled(program):
    checked = torch.distributions.Distribution._validate_args
    program.model.likelihood.network = torch.compile(program.model.likelihood.network)
    torch.distributions.Distribution.set_default_validate_args(checked)  # torch's compiler turns it off as it loads


def method(program):
    program.guide.posterior.forward = lambda x: x


def buffer_no_file_holds(program):
    program.model.prior.scale.mul_(2)


def more(program):
    program.model.extra = nn.Linear(1, 1)


def fewer(program):
    del program.guide.posterior.network.hidden[0]


def shape(program):
    program.guide.posterior.network.output.bias = nn.Parameter(torch.zeros(5))


def tied(program):
    program.guide.posterior = program.guide.posterior
    program.model.likelihood.network.output.bias = program.model.likelihood.network.hidden[0].bias


CHANGES = {
    laplace: "part 'model.likelihood': found Laplace, its recipe has Poisson",
    activation: "part 'model.likelihood.network.hidden.1': found ReLU, its recipe has Tanh",
    range_of_counts: "attribute 'model.likelihood.high': found 10, its recipe has 1000000.0",
    hook: "part 'guide.posterior': found forward hooks ['hook.<locals>.<lambda>'], its recipe has none",
    hook_before: "part 'model.likelihood.network': found forward pre hooks ['hook_before.<locals>.<lambda>'], its",
    spectral: "part 'model.likelihood.network.output': found ParametrizedLinear, its recipe has Linear",
    compiled: "part 'model.likelihood.network': found OptimizedModule, its recipe has MLP",
    method: "attribute 'guide.posterior.forward': found method.<locals>.<lambda>, its recipe has none",
    buffer_no_file_holds: "part 'model.prior.scale': found another Tensor (2,), its recipe has Tensor (2,)",
    prior_of_its_own: "attribute 'model.prior.latent_dim': found 3, its recipe has 2",
    more: "part 'model.extra': found Linear, its recipe has none",
    fewer: "part 'guide.posterior.network.hidden.0': found Tanh, its recipe has Linear",
    shape: "part 'guide.posterior.network.output.bias': found Parameter (5,), its recipe has Parameter (4,)",
    tied: "part 'model.likelihood.network.output.bias': found the one of 'model.likelihood.network.hidden.0.bias', its",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_differs_is_named_and_the_weights_alone_can_be_saved(change, tmp_path):
    program = pyro_vae.VAE(
        prior=StandardNormal(2),
        likelihood=pyro_vae.Poisson(MLP(2, IMAGE, (16,)), IMAGE, high=1e6),
        posterior=DiagonalNormal(MLP(IMAGE, (2, 2), (5,))),
    )
    change(program)
    with pytest.raises(ValueError, match=f"^program: {re.escape(CHANGES[change])}.*; build the program with the parts"):
        pyro_vae.save(program, tmp_path)
    with pytest.raises(ValueError, match=re.escape(CHANGES[change])):
        pyro_vae.save((program.model, program.guide), tmp_path)
    assert list(tmp_path.iterdir()) == []
    program.recipe = None
    pyro_vae.save(program, tmp_path)
    with pytest.raises(ValueError, match="found no recipe"):
        pyro_vae.load(tmp_path)
    pyro_vae.load(tmp_path, program)


def test_a_run_with_a_checkpoint_is_refused_before_it_begins(tmp_path):
    program = vae()
    program.model.likelihood = likelihood("laplace", "mlp")
    message = "part 'model.likelihood': found Laplace, its recipe has Bernoulli"
    refused(program.model, program.guide, bits(10), ValueError, message, tmp_path)
    program.model.recipe = program.guide.recipe = None
    options = {"num_epochs": 1, "batch_size": 5, "progress": False, "checkpoint": tmp_path / "run"}
    training.fit(program.model, program.guide, bits(10), **options)
    pyro_vae.load(tmp_path / "run", (program.model, program.guide))


def test_a_posterior_that_is_no_longer_shared():
    program = composed("diagonal", "vamp")
    program.guide.posterior = composed("diagonal", "standard").guide.posterior
    with pytest.raises(ValueError, match="found one of its own, its recipe has the one of|found the one of"):
        recipe_of(program)
    one, other = composed("diagonal", "vamp"), composed("diagonal", "vamp")
    with pytest.raises(ValueError, match=r"part '.*posterior.*': found one of its own, its recipe has the one of"):
        recipe_of(as_module((one.model, other.guide)))


def every_program():
    yield from HIERARCHIES.values()
    yield lambda: pyro_vae.VQVAE((8, 8))
    yield lambda: pyro_vae.M2((4, 4), 3, 2)
    yield lambda: pyro_vae.ConditionalVAE((4, 4), 3, 2)
    for posterior, prior in [("spline", "flow"), ("planar", "vamp"), ("sylvester", "mixture")]:
        yield functools.partial(composed, posterior, prior)


def test_programs_as_they_were_built_pass_and_nothing_else_is_touched():
    for make in every_program():
        program = make()
        for cast in (lambda p: p, lambda p: p.double(), lambda p: p.to(torch.bfloat16), lambda p: p.float()):
            cast(program)
            before, state = weights(program), torch.get_rng_state()
            assert recipe_of(program) == recipe_of(as_module((program.model, program.guide))) == program.recipe
            assert torch.equal(torch.get_rng_state(), state)
            assert all(torch.equal(value, before[name]) for name, value in weights(program).items())
    assert not list(pyro.get_param_store().keys())


def test_what_makes_no_difference_passes(monkeypatch):
    # torch's compiler turns the validation of distributions off for the whole process
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    program = vae()
    program.model.likelihood.start_at_mean(torch.full(IMAGE, 0.3))
    program.guide.requires_grad_(False)
    program.eval()
    program.note = "trained on a Friday"
    program.model.likelihood.network.compile()  # in place: runs faster, is the same
    recipe_of(program)
    recipe_of(as_module(anneal_kl(program.model, program.guide, 0.5)))
    recipe_of(as_module(observed_only(program.model, program.guide)))


def test_half_a_program_has_no_recipe():
    assert recipe_of(vae().model) is None
