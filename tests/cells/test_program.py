"""The program of cells: its bound by hand, log p by quadrature, covariates in both halves, draws, files."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from torch import Tensor, nn

import pyro_vae
from pyro_vae import ELBO, IWAE, CellVAE
from pyro_vae.cells.likelihood import CellCounts
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.pair import ProgramPair
from tests.support.cells import GENES, ByMarker, LinearDecoder, covariates, program
from tests.support.programs import check_close, seeded, traced

KINDS = [{}, {"likelihood": "zinb"}, {"inverse_dispersion": "gene-batch"}]


@pytest.fixture
def x():
    return torch.poisson(torch.full((5, GENES), 4.0), generator=torch.Generator().manual_seed(0)) + 1


@pytest.fixture
def packed(x):
    return torch.cat([x, covariates(x.sum(1), torch.tensor([0, 1, 2, 1, 0]))], 1)


class TestBound:
    @pytest.mark.parametrize("options", KINDS, ids=str)
    @pytest.mark.parametrize("num_particles", [1, 4])
    def test_it_is_the_formula(self, options, num_particles, x, packed):
        vae, x, packed = program(**options).double(), x.double(), packed.double()
        torch.manual_seed(3)
        pair = trace_pair(ProgramPair(vae.model, vae.guide), packed, num_particles)
        z = pair.guide_sites["z"]["value"].reshape(num_particles, 5, 2)
        s = packed[:, GENES:]
        seen = [x.log1p(), (s[:, :1] / 20).log(), nn.functional.one_hot(s[:, 1].long(), 3), s[:, 2:]]
        loc, raw = vae.guide.posterior.network.network(torch.cat(seen, -1)).unbind(-2)
        scale = torch.exp(math.log(1e3) * torch.tanh(raw / math.log(1e3)))
        log_q = torch.distributions.Normal(loc, scale).log_prob(z).sum(-1)
        log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        expected = vae.likelihood(z, s).log_prob(x) + log_prior - log_q
        torch.testing.assert_close(sum(pair.terms().values()), expected, rtol=0, atol=1e-10)

    def test_apart_and_packed_are_one(self, x, packed):
        vae = program()
        expected = seeded(ELBO().bound, vae.model, vae.guide, packed)
        assert torch.equal(seeded(ELBO().bound, vae.model, vae.guide, x, packed[:, GENES:]), expected)
        assert torch.equal(vae.pack(x, packed[:, GENES:]), packed)
        torch.testing.assert_close(vae.encode((x, packed[:, GENES:])), vae.encode(packed), rtol=0, atol=0)

    def test_counts_alone_have_their_sum_for_library_size(self, x):
        vae = CellVAE(GENES, 2, (5,))
        alone = seeded(ELBO().bound, vae.model, vae.guide, x)
        assert torch.equal(alone, seeded(ELBO().bound, vae.model, vae.guide, torch.cat([x, x.sum(1, keepdim=True)], 1)))

    @pytest.mark.parametrize("options", KINDS, ids=str)
    def test_gradients_reach_every_parameter(self, options, packed):
        vae = program(**options)
        ELBO().differentiable_loss(vae.model, vae.guide, packed).backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in vae.parameters())

    @pytest.mark.parametrize("options", KINDS, ids=str)
    def test_it_can_be_traced(self, options, packed):
        vae, other = program(**options), packed.clone()
        other[:, GENES + 1] = torch.tensor([2, 2, 0, 0, 1])  # other data for the same graph

        def bound(x):
            return [IWAE(4).bound(vae.model, vae.guide, x)]

        compiled = Compiled(bound, (vae.model, vae.guide), lower=traced)
        with pyro.validation_enabled(False):  # as in fit
            for data in (packed, other):
                torch.testing.assert_close(seeded(compiled, data), seeded(bound, data), rtol=1e-5, atol=1e-5)
        assert compiled.reason is None and compiled.num_traces == 1


class TestCovariates:
    @pytest.mark.parametrize("change", [(2.0, 0, 0.0), (1.0, 1, 0.0), (1.0, 0, 1.0)], ids=["library", "batch", "age"])
    def test_each_reaches_both_halves(self, change, x):
        vae = program()
        first, second = covariates(x.sum(1)), covariates(x.sum(1) * change[0], change[1], 0.5 + change[2])
        encoded = [vae.encode(vae.pack(x, s)) for s in (first, second)]
        assert (encoded[0] - encoded[1]).abs().min() > 1e-3
        z = torch.zeros(5, 2)
        means = [vae.likelihood(z, s).mean for s in (first, second)]
        assert (means[0] - means[1]).abs().min() > 1e-3

    def test_the_density_is_of_the_counts_alone(self, packed):
        vae = program()
        assert pyro_vae.log_likelihood(vae.model, vae.guide, packed, 3, seed=0).num_dims == GENES


def one_latent() -> CellVAE:
    """One latent, three genes, and a guide of fixed width."""
    decoder = LinearDecoder(torch.tensor([0.5, 0.0, -0.5]), torch.tensor([1.0, -0.7, 0.0]))
    return CellVAE(3, 1, likelihood=CellCounts(decoder, 3), posterior=ByMarker(1.0)).double()


class TestLogLikelihood:
    def test_it_is_that_of_quadrature(self):
        vae, x = one_latent(), torch.tensor([[9.0, 2, 4], [1, 5, 3], [0, 1, 0]]).double()
        z = torch.linspace(-9, 9, 4001).double()[:, None]
        rows = [vae.likelihood(z, row.sum().expand(4001, 1)).log_prob(row) for row in x]
        log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0])
        exact = torch.stack([(row + log_prior).logsumexp(0) for row in rows]).detach() + math.log(18 / 4000)
        found = pyro_vae.log_likelihood(vae.model, vae.guide, x, 20_000, seed=0)
        assert found.std_error.max() < 0.02
        assert ((found.values - exact).abs() < 5 * found.std_error).all()

    def test_without_latents_in_the_decoder_it_is_the_density(self, x):
        decoder = LinearDecoder(torch.randn(GENES), torch.zeros(GENES))
        vae = CellVAE(GENES, 1, likelihood=CellCounts(decoder, GENES), posterior=PriorAsPosterior())
        found = pyro_vae.log_likelihood(vae.model, vae.guide, x, 7, seed=0)
        expected = vae.likelihood(torch.zeros(5, 1), x.sum(1, keepdim=True)).log_prob(x).double()
        torch.testing.assert_close(found.values, expected.detach(), rtol=1e-6, atol=1e-5)
        assert found.std_error.max() < 1e-5


class PriorAsPosterior(nn.Module):
    def forward(self, x: Tensor, covariates: Tensor):
        return pyro.distributions.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1)


class TestDraws:
    def test_of_given_covariates(self):
        vae, s = program(), torch.tensor([[30.0, 0, 0.5], [60.0, 2, -1.0]])
        with torch.no_grad():
            vae.likelihood.network.hidden[0].weight[:, :2] = 0  # the latents then say nothing
        expected = vae.likelihood(torch.zeros(2, 2), s).mean
        torch.testing.assert_close(vae.sample(2, mean=True, covariates=s), expected, rtol=1e-6, atol=1e-6)
        many = vae.sample(4000, covariates=s[0])
        error = many.std(0) / math.sqrt(4000)
        assert ((many.mean(0) - expected[0]).abs() < 5 * error).all()  # one false alarm in 300,000 seeds
        assert vae.sample(0, covariates=s[0]).shape == (0, GENES)
        assert vae.sample(3, covariates=s[0], layer=1, mean=True).shape == (3, GENES)

    def test_the_typical_library_is_the_default_without_covariates(self):
        vae = CellVAE(GENES, 2, (5,), typical_library=50.0)
        torch.testing.assert_close(vae.sample(3, mean=True).sum(1), torch.full((3,), 50.0))

    def test_a_reconstruction_uses_the_covariates(self, packed):
        vae = program()
        expected = vae.likelihood(vae.encode(packed), packed[:, GENES:]).mean
        torch.testing.assert_close(vae.reconstruct(packed), expected, rtol=0, atol=0)


def test_fit_learns_and_load_brings_it_back(tmp_path, packed):
    vae, data = program(), packed.repeat(8, 1)
    history = pyro_vae.fit(
        vae.model, vae.guide, data, num_epochs=20, batch_size=20, lr=0.02, seed=0, checkpoint=tmp_path, progress=False
    )
    bounds = [record["train_bound"] for record in history.records]
    assert bounds[-1] > bounds[0] + 1
    loaded = pyro_vae.load(tmp_path)
    assert isinstance(loaded, CellVAE) and loaded.layout == vae.layout
    check_close(dict(loaded.state_dict()), dict(vae.state_dict()), rtol=0, atol=0)
    scores = [pyro_vae.log_likelihood(each.model, each.guide, data, 10, seed=0).values for each in (vae, loaded)]
    assert torch.equal(*scores)


def test_the_other_functions_take_it(packed):
    vae = program()
    diagnosis = pyro_vae.diagnose(vae.model, vae.guide, packed)
    assert set(diagnosis.kl) == {"z"} and math.isfinite(diagnosis.elbo)
    apart = packed[:, :GENES], packed[:, GENES:]  # a model of two arguments can also be simulated
    bounds = pyro_vae.sandwich(vae.model, vae.guide, 5, 2, 10, x=apart, seed=0)
    assert math.isfinite(bounds.gap) and bounds.data.args[0].shape == (5, GENES)
    assert torch.equal(bounds.data.args[1], packed[:, GENES:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x[:, :-1],
            r"x: found the shape \(5, 8\), expected \(B, 9\): 6 counts, then the library size, 1 codes",
        ),
        (
            lambda x: x.index_fill(1, torch.tensor([6]), 0.0),
            r"x\[0\]: found the library size 0, expected a positive num",
        ),
        (
            lambda x: x.index_fill(1, torch.tensor([7]), 3.0),
            "x: found codes of covariate 0 from 3 to 3, expected integ",
        ),
        (lambda x: x.index_fill(1, torch.tensor([7]), 0.5), "x: found codes of covariate 0 from 0.5 to 0.5, expected"),
        (lambda x: x.half(), "x: found torch.float16, which rounds counts, expected float32 or float64"),
    ],
)
def test_what_is_refused(change, message, packed):
    vae = program()
    with pytest.raises(ValueError, match=message):
        vae.model(change(packed))


def test_what_else_is_refused(x):
    vae = program()
    with pytest.raises(
        ValueError, match="^covariates: found none, expected those of each cell: the library size, 1 co"
    ):
        vae.sample(2)
    with pytest.raises(ValueError, match=r"^covariates: found the shape \(2,\), expected \(3,\) or \(4, 3\): the libr"):
        vae.sample(4, covariates=[10.0, 0.0])
    with pytest.raises(ValueError, match="^likelihood: found 'poisson', expected 'nb', 'zinb' or a module"):
        CellVAE(GENES, likelihood="poisson")
    with pytest.raises(ValueError, match=r"^data: found the value .*5 at \(0, 0\), outside the support of site 'x'"):
        pyro_vae.fit(vae.model, vae.guide, torch.cat([x + 0.5, covariates(x.sum(1))], 1), num_epochs=1, batch_size=5)
