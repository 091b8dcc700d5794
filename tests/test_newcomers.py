"""What newcomers type first, and the sentence that each mistake is answered with."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import VAE, ProgramError

X = torch.zeros(6, 4)
PAIR = "^model: found VAE, a pair of programs, expected the two one by one, as in fit\\(vae.model, vae.guide, data\\)$"


def small(**parts):
    return VAE((4,), 2, (5,), **parts)


def fit(model, guide, **options):
    return pyro_vae.fit(model, guide, X, num_epochs=1, batch_size=3, progress=False, **options)


class Model(pyro.nn.PyroModule):
    """A model as Pyro's users write it, whose latent is drawn from what a function returns."""

    def __init__(self, prior=lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), width=2):
        super().__init__()
        self.decoder, self.prior = nn.Linear(width, 4), prior

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(pyro.nn.PyroModule):
    """A guide whose latent is drawn from what a function makes of the encoder's output."""

    def __init__(self, posterior=lambda loc: dist.Normal(loc, 1.0).to_event(1), encoder=None):
        super().__init__()
        self.encoder, self.posterior = encoder or nn.Linear(4, 2), posterior

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.posterior(self.encoder(x)))


class Tutorial(nn.Module):
    """A module with two methods, as in Pyro's tutorial."""

    def model(self, x):
        raise NotImplementedError

    def guide(self, x):
        raise NotImplementedError


class TwoHeads(nn.Module):
    """An encoder that returns two tensors."""

    def __init__(self, width=4):
        super().__init__()
        self.mean, self.logvar = nn.Linear(width, 2), nn.Linear(width, 2)

    def forward(self, x):
        return self.mean(x), self.logvar(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda vae: pyro_vae.fit(vae, X),
        lambda vae: pyro_vae.fit(vae, vae, X),
        lambda vae: pyro_vae.log_likelihood(vae, X),
        lambda vae: pyro_vae.log_weights(vae, X),
        lambda vae: pyro_vae.diagnose(vae, X),
        lambda vae: pyro_vae.anneal_kl(vae, 0.5),
        lambda vae: pyro_vae.score(vae, X),
    ],
)
def test_a_pair_in_the_place_of_its_two_programs(call):
    with pytest.raises(TypeError, match=PAIR):
        call(small())


def test_a_module_with_two_methods_is_a_pair_too():
    with pytest.raises(TypeError, match="^model: found Tutorial, a pair of programs, expected the two one by one"):
        pyro_vae.fit(Tutorial(), X)

    class Called(Tutorial):  # a program that happens to have parts of these names
        def __init__(self):
            super().__init__()
            self.program = Model()

        def forward(self, x):
            return self.program(x)

    assert len(fit(Called(), Guide()).records) == 1


@pytest.mark.parametrize("objective", ["iwae", 5, pyro_vae.IWAE])
def test_an_objective_by_another_name(objective):
    vae = small()
    with pytest.raises(TypeError, match=r"^objective: found .*, expected one such as ELBO\(\) or IWAE\(5\), or"):
        fit(vae.model, vae.guide, objective=objective)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(784, 2), r"data_shape: found 784, expected positive integers, in a list such as \[784\]"),
        (
            lambda: VAE((4,), 2, 200.0),
            r"hidden_dims: found 200.0, expected positive .*, in a list such as \[200\]",
        ),
        (
            lambda: pyro_vae.HVAE((4,), 2.0),
            "latent_dims: found 2.0, expected the length of each layer from z1 up, one",
        ),
    ],
)
def test_one_number_in_the_place_of_a_list(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_datum_in_the_place_of_a_batch():
    vae, image = VAE((3, 4), 2, (5,)), torch.zeros(3, 4)
    single = r"^x: found a single datum of shape \(3, 4\), expected \(N, 3, 4\), as x\[None\] has$"
    for call in (vae.encode, vae.reconstruct, lambda x: pyro_vae.log_weights(vae.model, vae.guide, x)):
        with pytest.raises(ValueError, match=single):
            call(image)
        call(image[None])
    message = r": found data of shape \(N, 4\), expected \(N, 3, 4\) .*; a single datum x is given as x\[None\]$"
    with pytest.raises(ValueError, match="^x" + message):
        pyro_vae.log_likelihood(vae.model, vae.guide, image)
    with pytest.raises(ValueError, match="^data" + message):
        pyro_vae.fit(vae.model, vae.guide, image, batch_size=3, progress=False)


def every_way(model, guide, error, message):
    """Hold the message of training, of scoring and of the weights against what is expected."""
    for call in (
        lambda: fit(model, guide),
        lambda: pyro_vae.log_likelihood(model, guide, X, num_particles=3),
        lambda: pyro_vae.log_weights(model, guide, X, num_particles=3),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_distribution_of_torch():
    every_way(
        Model(),
        Guide(lambda loc: torch.distributions.Normal(loc, 1.0)),
        ValueError,
        "site 'z': found Normal of torch.distributions, expected Pyro's, pyro.distributions.Normal",
    )
    every_way(
        Model(lambda: torch.distributions.Normal(torch.zeros(2), 1.0)),
        Guide(),
        ProgramError,
        r"^site 'z': .*declare those of one datum with .to_event\(n\), which distributions of pyro.distributions have",
    )


def test_a_tensor_or_a_tuple_in_the_place_of_a_distribution():
    expected = r"expected a distribution, such as pyro.distributions.Normal\(loc, scale\)"
    every_way(Model(), Guide(lambda loc: loc), ValueError, f"site 'z': found Tensor, {expected}")
    vae = small(posterior=TwoHeads())
    every_way(vae.model, vae.guide, ValueError, f"site 'z': found tuple, {expected}")
    vae = small(likelihood=nn.Linear(2, 4))
    every_way(vae.model, vae.guide, ValueError, f"site 'x': found Tensor, {expected}")


def test_a_network_that_returns_a_tuple():
    message = "found a network output of type tuple of 2, expected one tensor, as torch.stack makes of several; "
    for part in (pyro_vae.DiagonalNormal, pyro_vae.FullNormal, lambda net: pyro_vae.LowRankNormal(net, 1)):
        vae = small(posterior=part(TwoHeads()))
        every_way(vae.model, vae.guide, ValueError, message)
    with pytest.raises(ValueError, match="MixturePosterior: " + message):
        pyro_vae.MixturePosterior(TwoHeads(), 2)(X)
    with pytest.raises(ValueError, match="FlowPosterior: " + message):
        pyro_vae.FlowPosterior(pyro_vae.Flow("planar", 2, context_dim=2), TwoHeads())(X)
    with pytest.raises(ValueError, match="Bernoulli: " + message):
        pyro_vae.Bernoulli(TwoHeads(2), (2,))(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="Bernoulli: found a network output of type NoneType, expected one tensor"):
        pyro_vae.Bernoulli(None_(), (2,))(torch.zeros(3, 2))
    every_way(
        Model(), Guide(encoder=TwoHeads()), ValueError, "; a network may return a tuple where one tensor is expected"
    )


class None_(nn.Module):
    def forward(self, z):
        return None


def test_latents_of_two_sizes():
    message = r"^site 'z': found a latent of shape \(3,\) in the guide and of shape \(2,\) in the model, expected"
    every_way(Model(), Guide(encoder=nn.Linear(4, 3)), ProgramError, message)
    every_way(small().model, VAE((4,), 3, (5,)).guide, ProgramError, message)
    three, decoder = Model(lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), width=3), nn.Linear(3, 4)
    alone = r"^found a model that fails on its own latents, 'z' of shape \(2,\): mat1 and mat2 shapes cannot be mult"
    every_way(three, Guide(), ProgramError, alone)
    vae = small(likelihood=pyro_vae.Bernoulli(decoder, (4,)))
    every_way(vae.model, vae.guide, ProgramError, alone)


def test_why_programs_fail_is_looked_for_without_a_trace():
    model, guide = Model(), Guide(encoder=nn.Linear(4, 3))
    before = torch.get_rng_state()
    with pytest.raises(ProgramError):
        pyro_vae.log_likelihood(model, guide, X, num_particles=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(pyro.get_param_store())

    def failing(x):
        raise RuntimeError("of its own")

    with pytest.raises(ValueError, match="^x: found data of shape .*, on which the programs fail: of its own$"):
        pyro_vae.log_weights(model, failing, X)


def test_a_missing_entry_of_a_loader_is_told_what_to_do():
    x = torch.zeros(6, 4)
    x[4, 1] = torch.nan
    vae = small()
    message = r"^data: found the value nan at \(4, 1\), expected finite .* pyro_vae.pack\(x\) .*pyro_vae.observed_only$"
    with pytest.raises(ValueError, match=message):
        pyro_vae.fit(vae.model, vae.guide, torch.utils.data.DataLoader(x, batch_size=3), num_epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"found the value inf at \(4, 1\), expected finite numbers$"):
        x[4, 1] = torch.inf
        pyro_vae.fit(vae.model, vae.guide, torch.utils.data.DataLoader(x, batch_size=3), num_epochs=1, progress=False)
