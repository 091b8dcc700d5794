"""Missing entries: what is not observed adds nothing, whatever stands there."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, ProgramError, anneal_kl
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.missing import ObservedOnly, observed_only, pack
from pyro_vae.inference.pair import ProgramPair
from tests.support.masked import B, masked_images
from tests.support.pairwise import in_turn
from tests.support.programs import IMAGE, PAIRS, bits, check_close, perturbed, seeded, traced, vae, weights

pytestmark = pytest.mark.usefixtures("double")
TRACED = ("bernoulli-mlp", "decoder-convolutional", "ladder", "tutorial")


@pytest.fixture
def x():
    return masked_images()[0]


@pytest.fixture
def mask():
    return masked_images()[1]


class TestPack:
    def test_nan_is_missing(self):
        x = torch.tensor([[1.0, math.nan], [math.nan, 3.0]])
        expected = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [0.0, 1.0]]])
        assert torch.equal(pack(x), expected)
        assert torch.equal(pack(x.numpy()), expected)
        assert torch.equal(pack(torch.tensor([[1, 7], [7, 3]]), [[1, 0], [0, 1]]), expected)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (torch.ones(2), r"mask: found the shape \(2,\), expected that of x, \(2, 3\)"),
            (torch.full((2, 3), 0.5), "mask: found values from 0.5 to 0.5, expected True and False"),
            (torch.full((2, 3), math.nan), "mask: found values from nan to nan, expected True and False"),
        ],
    )
    def test_wrong_masks_are_named(self, mask, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            pack(torch.zeros(2, 3), mask)


class TestObservedOnly:
    @pytest.mark.parametrize("name", PAIRS)
    def test_with_all_observed_it_is_the_program(self, name, x):
        pair = [half.double() for half in PAIRS[name]()]
        expected = seeded(pyro_vae.log_weights, *pair, x, 3)
        found = seeded(pyro_vae.log_weights, *observed_only(*pair), pack(x), 3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", PAIRS)
    def test_what_is_missing_adds_nothing_whatever_it_is(self, name, x, mask):
        pair = [half.double() for half in PAIRS[name]()]
        torch.manual_seed(3)
        bare = trace_pair(ProgramPair(*pair), torch.where(mask, x, 0.0), 3)
        p = bare.model_sites[bare.observed[0]]["fn"].base_dist
        entries = p.log_prob(torch.where(mask, x, 0.0).reshape(B, *p.batch_shape[2:])).reshape(3, B, *IMAGE)
        expected = sum(bare.terms().values()) - (entries * ~mask).flatten(2).sum(-1)
        wanted = observed_only(*pair)
        for filling in (0.0, math.nan, 7.0):
            packed = pack(torch.where(mask, x, filling), mask)
            found = seeded(pyro_vae.log_weights, *wanted, packed, 3)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)

    def test_with_nothing_observed_all_is_prior(self, x):
        program = perturbed(vae())
        pair = observed_only(program.model, program.guide)
        terms = trace_pair(ProgramPair(*pair), pack(x, torch.zeros_like(x))).terms()
        assert (terms["x"] == 0).all() and (terms["z"] != 0).all()

    def test_the_missing_give_no_gradient(self, x, mask):
        """Each pixel has a bias of its own."""
        program = vae()
        pair = observed_only(program.model, program.guide)
        mask[:, 0, 1], mask[0, 0, 2] = False, True
        ELBO().differentiable_loss(*pair, pack(x, mask)).backward()
        gradient = program.likelihood.network.output.bias.grad.reshape(IMAGE)
        assert gradient[0, 1] == 0 and gradient[0, 2] != 0

    @pytest.mark.parametrize(("name", "objective"), in_turn(TRACED, [ELBO(), IWAE(4, gradient="dreg")]), ids=str)
    def test_it_can_be_traced(self, objective, name, x, mask):
        """The mask is data: the same graph serves another one."""
        model, guide = observed_only(*(half.double() for half in PAIRS[name]()))
        model.eval(), guide.eval()

        def gradients(x):
            loss = objective.differentiable_loss(model, guide, x)
            return [loss.detach(), *torch.autograd.grad(loss, [*model.parameters(), *guide.parameters()])]

        compiled = Compiled(gradients, (model, guide, objective), lower=traced)
        with pyro.validation_enabled(False):  # as in fit
            for where in (mask, mask.flip(0)):
                found, expected = (seeded(run, pack(x, where)) for run in (compiled, gradients))
                check_close(dict(enumerate(found)), dict(enumerate(expected)), rtol=1e-9, atol=1e-9)
        assert compiled.reason is None and compiled.num_traces == 1

    def test_fit_and_its_checkpoint(self, mask, tmp_path):
        torch.set_default_dtype(torch.float32)  # the fixture double restores what was before
        program, other = vae(), vae()
        data = pack(bits(24), mask.repeat(4, 1, 1))
        pair = observed_only(program.model, program.guide)
        before = weights(*pair)
        history = pyro_vae.fit(
            *pair, data, num_epochs=3, batch_size=6, lr=0.02, seed=0, valid=data, checkpoint=tmp_path, progress=False
        )  # fmt: skip
        assert history.records[-1]["valid_bound"] > history.records[0]["valid_bound"]
        assert not any(torch.equal(before[name], tensor) for name, tensor in weights(*pair).items())
        loaded = pyro_vae.load(tmp_path)  # the checkpoint is that of the program
        pyro_vae.load(tmp_path, observed_only(other.model, other.guide))
        for copy in (loaded, other):
            check_close(dict(copy.state_dict()), dict(program.state_dict()), rtol=0, atol=0)

    def test_what_is_observed_is_held_against_the_support(self, x, mask):
        program = vae().double()
        pair = observed_only(program.model, program.guide)
        row, column = mask[1].nonzero()[0].tolist()
        x[1, row, column] = 0.5
        with pytest.raises(ValueError, match=rf"x: found the value 0.5 at \(1, {row}, {column}\), outside the support"):
            pyro_vae.log_likelihood(*pair, pack(x, mask), num_particles=2)
        mask[1, row, column] = False
        pyro_vae.log_likelihood(*pair, pack(x, mask), num_particles=2)

    def test_bits_are_those_of_an_observed_entry(self, x, mask):
        program = vae().double()
        found = pyro_vae.log_likelihood(*observed_only(program.model, program.guide), pack(x, mask), num_particles=5)
        assert found.bits_per_dim() == pytest.approx(-found.values.sum().item() / (mask.sum().item() * math.log(2)))

    def test_annealing_goes_around_it(self, x, mask):
        program, packed = vae(), pack(x, mask)
        pair = observed_only(program.model, program.guide)
        terms = seeded(trace_pair, ProgramPair(*pair), packed).terms()
        bound = seeded(ELBO().bound, *anneal_kl(*pair, 0.3), packed)
        torch.testing.assert_close(bound, (terms["x"] + 0.3 * terms["z"])[0], rtol=0, atol=1e-12)
        with pytest.raises(TypeError, match="^model: found an annealed program, expected anneal_kl"):
            observed_only(*anneal_kl(program.model, program.guide, 0.3))


class Of(PyroModule):
    """A model whose observed site is what a test gives."""

    def __init__(self, make):
        super().__init__()
        self.make = make
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.bias, 1.0).expand([2]).to_event(1))
            pyro.sample("x", self.make(z), obs=x)


class Sum(dist.TorchDistribution):
    """Three entries that are not independent, with a density of their sum; the observed ones' when it is masked."""

    support = dist.constraints.real_vector

    def __init__(self, loc, observed):
        super().__init__(loc.shape, torch.Size([3]), validate_args=False)
        self.loc, self.observed = loc, observed

    def expand(self, batch_shape, _instance=None):
        return Sum(self.loc.expand(batch_shape), self.observed)

    def masked(self, mask):
        return Sum(self.loc, mask.double())

    def log_prob(self, value):
        return self.loc + (value * self.observed).sum(-1)


def correlated(z):
    return dist.MultivariateNormal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), torch.eye(3))


def in_a_plate(x):
    with pyro.plate("pixels", 3, dim=-2):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.T)


class TestSites:
    def test_a_distribution_can_mask_itself(self):
        packed = pack(torch.tensor([[1.0, math.nan, 5.0], [math.nan, 2.0, math.nan]]))
        model = ObservedOnly(Of(lambda z: Sum(z.sum(-1), torch.full((3,), 100.0))))
        site = poutine.trace(model).get_trace(packed).nodes["x"]
        torch.testing.assert_close(site["fn"].log_prob(site["value"]) - site["fn"].loc, torch.tensor([6.0, 2.0]))

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (correlated, "found MultivariateNormal, whose entries are not independent, expected a distribution of"),
            (lambda z: dist.Normal(z, 1.0).to_event(1), r"found a distribution of batch shape \(2,\) and event shape "
             r"\(2,\), expected 2 data with an event of the 3 entries that are masked"),
        ],
        ids=["correlated", "of another shape"],
    )  # fmt: skip
    def test_what_cannot_be_masked_is_named(self, make, message):
        model = ObservedOnly(Of(make))
        with pytest.raises(ProgramError, match=f"site 'x': {message}"):
            model(pack(torch.zeros(2, 3)))

    def test_entries_in_a_plate_are_refused(self):
        with pytest.raises(ProgramError, match=r"site 'x': found a distribution of batch shape \(3, 1\) and event"):
            ObservedOnly(in_a_plate)(pack(torch.zeros(1, 3)))

    @pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 1, 3)])
    def test_data_without_a_mask_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"^x: found the shape .*, expected \(B, 2, \*data_shape\), data and mask"):
            ObservedOnly(len)(torch.zeros(shape))
