"""What every likelihood keeps: shapes, supports, finite gradients, graphs, and the refusal of what does not fit."""

from __future__ import annotations

import math
import re

import pyro
import pytest
import torch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae
from pyro_vae import MLP
from pyro_vae.nn.recipes import build
from tests.support.every_likelihood import MAKERS, every_likelihood, vae_with
from tests.support.programs import IMAGE, LATENT_DIM, LIKELIHOODS, NETWORKS, likelihood, refused

pytestmark = pytest.mark.usefixtures("double")


class TestOnEveryNetwork:
    @pytest.mark.parametrize("name", LIKELIHOODS)
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("batch_shape", [(), (5,), (3, 5)])
    def test_one_distribution_for_each_latent(self, name, network, batch_shape):
        part = likelihood(name, network).double()
        z = torch.randn(*batch_shape, LATENT_DIM)
        p = part(z)
        assert p.batch_shape == batch_shape and p.event_shape == IMAGE
        rows = torch.stack([part(row).mean for row in z.reshape(-1, LATENT_DIM)]).reshape(*batch_shape, *IMAGE)
        torch.testing.assert_close(p.mean, rows, rtol=1e-12, atol=1e-14)
        assert p.log_prob(torch.ones(IMAGE)).shape == batch_shape


def left_out(p, mask):
    """The distribution without the entries where the mask is false."""
    return p.masked(mask) if hasattr(p, "masked") else p.base_dist.mask(mask).to_event(len(p.event_shape))


@pytest.mark.parametrize("name", MAKERS)
class TestEveryKind:
    def test_its_shapes_under_each_batch_shape(self, name):
        part = every_likelihood(name)
        for batch_shape in [(), (5,), (3, 5)]:
            z = torch.randn(*batch_shape, LATENT_DIM)
            p = part(z)
            assert p.batch_shape == batch_shape and p.event_shape == part.data_shape
            assert p.mean.shape == p.sample().shape == (*batch_shape, *part.data_shape)
            assert p.sample((7,)).shape == (7, *batch_shape, *part.data_shape)
            assert p.sample().dtype == p.mean.dtype == torch.float64
            rows = torch.stack([part(row).mean for row in z.reshape(-1, LATENT_DIM)]).reshape(p.mean.shape)
            torch.testing.assert_close(p.mean, rows, rtol=1e-10, atol=1e-12)

    def test_particles_are_scored_against_the_same_data(self, name):
        part = every_likelihood(name)
        z = torch.randn(3, 5, LATENT_DIM)
        x = part(z[0]).sample()  # (B, *data_shape)
        with pyro.validation_enabled(True):
            found = part(z).log_prob(x)  # (K, B)
        expected = torch.stack([torch.stack([part(z[k, b]).log_prob(x[b]) for b in range(5)]) for k in range(3)])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        assert torch.isfinite(found).all()

    def test_it_expands_to_a_plate(self, name):
        part = every_likelihood(name)
        z = torch.randn(LATENT_DIM)
        p, wide = part(z), part(z).expand((3, 5))
        x = p.sample((5,))
        assert wide.batch_shape == (3, 5) and wide.sample().shape == wide.mean.shape == (3, 5, *part.data_shape)
        assert torch.equal(wide.log_prob(x), p.log_prob(x).expand(3, 5))

    def test_its_draws_lie_in_its_support_and_it_is_rebuilt_from_its_recipe(self, name):
        part = every_likelihood(name)
        copy = build(part.recipe).double()
        copy.load_state_dict(part.state_dict())
        z = torch.randn(50, LATENT_DIM)
        x = part(z).sample()
        assert part(z).support.check(x).all()
        assert torch.equal(copy(z).log_prob(x), part(z).log_prob(x))

    def test_a_graph_of_tensor_operations_computes_the_same(self, name):
        part = every_likelihood(name)
        z, other = torch.randn(2, 3, 5, LATENT_DIM)
        x = part(z[0]).sample()

        def score(parameters, z, x):
            log_p = functional_call(part, parameters, (z,)).log_prob(x)
            return [log_p, *torch.autograd.grad(log_p.sum(), list(parameters.values()))]

        parameters = dict(part.named_parameters()) | dict(part.named_buffers())
        parameters = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
        with pyro.validation_enabled(False):
            graph = make_fx(score)(parameters, z, x)
            x = part(other[0]).sample()
            found, expected = graph(parameters, other, x), score(parameters, other, x)
        for one, another in zip(found, expected, strict=True):
            torch.testing.assert_close(one, another, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_extreme_outputs_have_finite_gradients(self, name, dtype):
        part = MAKERS[name](None).to(dtype)
        x = part.from_output(torch.zeros(40, *part.output_shape, dtype=dtype)).sample()
        for size in (1e-30, 30.0, 1e3, 1e5):
            signs = torch.randint(-1, 2, (40, *part.output_shape)).to(dtype)
            output = (size * signs).requires_grad_()
            log_p = part.from_output(output).log_prob(x)
            (gradient,) = torch.autograd.grad(log_p.sum(), output)
            assert torch.isfinite(log_p).all() and torch.isfinite(gradient).all(), size
            assert torch.isfinite(part.from_output(output).mean).all(), size
            assert log_p.dtype == dtype

    def test_single_entries_can_be_left_out(self, name):
        part = every_likelihood(name)
        z = torch.randn(3, 5, LATENT_DIM)
        x = part(z[0]).sample()
        mask = torch.rand(5, *part.data_shape) < 0.5
        mask = mask[:, :1].expand_as(mask) if name == "colour" else mask  # whole pixels
        p = part(z)
        masked = left_out(p, mask)
        assert masked.batch_shape == (3, 5) and masked.event_shape == part.data_shape
        # What is left out has no say: the same for other values there, and the whole is what remains without a mask.
        other = torch.where(mask, x, part(z[1]).sample())
        assert torch.equal(masked.log_prob(x), masked.log_prob(other))
        total = masked.log_prob(x) + left_out(p, ~mask).log_prob(x)
        torch.testing.assert_close(total, p.log_prob(x), rtol=1e-10, atol=1e-10)
        assert not torch.equal(masked.log_prob(x), p.log_prob(x))

    def test_it_trains_reconstructs_and_is_scored(self, name):
        part = every_likelihood(name)
        x = part(torch.randn(20, LATENT_DIM)).sample()
        vae = vae_with(part)
        history = pyro_vae.fit(vae.model, vae.guide, x, num_epochs=2, batch_size=5, seed=0, progress=False)
        assert all(math.isfinite(record["train_bound"]) for record in history.records)
        assert vae.reconstruct(x).shape == vae.sample(20).shape == x.shape
        assert torch.isfinite(pyro_vae.log_likelihood(vae.model, vae.guide, x, 10, seed=0).values).all()

    def test_on_the_device(self, name, device):
        part = every_likelihood(name)
        z = torch.randn(3, 5, LATENT_DIM)
        x = part(z[0]).sample()
        expected = part(z).log_prob(x)
        part.to(device)
        p = part(z.to(device))
        assert p.sample().device.type == p.mean.device.type == device.type
        torch.testing.assert_close(p.log_prob(x.to(device)).cpu(), expected, rtol=1e-10, atol=1e-10)

    def test_a_network_of_another_output_is_refused(self, name):
        shape = MAKERS[name](None).output_shape
        for wrong in [(1,), (*shape[:-1], shape[-1] + 1), (2, *shape)]:
            part = MAKERS[name](MLP(LATENT_DIM, wrong))
            message = (
                rf"^{type(part).__name__}: found a network output of shape .* for z of shape \(5, 2\), expected \(5, "
            )
            with pytest.raises(ValueError, match=message):
                part(torch.zeros(5, LATENT_DIM))

    def test_without_a_network_it_says_so(self, name):
        part = MAKERS[name](None)
        message = rf"^{type(part).__name__}: found no network, expected one, or a place among the parts"
        with pytest.raises(ValueError, match=message):
            part(torch.zeros(5, LATENT_DIM))


COUNTS = r"IntegerGreaterThan\(lower_bound=0\)$"
# By likelihood: a value that is no data, and what the message says.
REFUSED = {
    "Bernoulli": (0.25, r"a Bernoulli covers, Boolean\(\); binarise it"),
    "ContinuousBernoulli": (1.5, r"a GreyBernoulli covers, Interval\(lower_bound=0\.0, upper_bound=1\.0\)"),
    "Categorical": (0.5, "a GreyLevels covers, multiples of 1/3 from 0 to 1$"),
    "Binomial": (7.0, "a GreyLevels covers, multiples of 1/16 from 0 to 1; divide whole levels by 16$"),
    "Nominal": (4.0, r"a Codes covers, IntegerInterval\(lower_bound=0, upper_bound=3\)$"),
    "DiscretizedLogistic": (255.0, "a GreyLevels covers, multiples of 1/255 from 0 to 1; divide whole levels by 255$"),
    "DiscretizedLogisticMixture": (0.5, "a GreyLevels covers, multiples of 1/255 from 0 to 1$"),
    "colour": (-1 / 15, "a ColourLevels covers, multiples of 1/15 from 0 to 1$"),
    "Poisson": (0.5, rf"a Poisson covers, {COUNTS}"),
    "NegativeBinomial": (-1.0, rf"a NegativeBinomial covers, {COUNTS}"),
    "ZeroInflatedPoisson": (1.5, rf"a Poisson covers, {COUNTS}"),
    "ZeroInflatedNegativeBinomial": (-2.0, rf"a NegativeBinomial covers, {COUNTS}"),
}


class TestWrongData:
    def test_every_kind_refuses_some_but_those_of_real_numbers(self):
        assert set(MAKERS) - set(REFUSED) == {"Gaussian", "Laplace", "StudentT", "Heterogeneous"}

    @pytest.mark.parametrize("name", REFUSED)
    def test_it_is_refused_by_name_before_training(self, name, tmp_path):
        part = every_likelihood(name)
        value, message = REFUSED[name]
        x = part(torch.randn(20, LATENT_DIM)).sample()
        index = (11, *(0,) * len(part.data_shape))
        x[index] = value
        vae = vae_with(part)
        where = re.escape(f"data: found the value {value:g} at {index}, outside the support of site 'x'")
        refused(vae.model, vae.guide, x, ValueError, f"^{where}, expected what {message}", tmp_path)

    def test_grey_levels_in_half_precision_are_told_how_to_restore_them(self, tmp_path):
        vae = vae_with(pyro_vae.Categorical(pyro_vae.MLP(LATENT_DIM, (256, 3)), (3,)))
        levels = torch.arange(60).reshape(20, 3)
        half = (levels / 255).half()
        message = r"multiples of 1/255 from 0 to 1; levels that half precision rounded are restored by "
        restore = r"\(x\.float\(\) \* 255\)\.round\(\) / 255$"
        refused(vae.model, vae.guide, half, ValueError, message + restore, tmp_path)
        restored = (half.float() * 255).round() / 255
        assert torch.equal((restored * 255).round().long(), levels)
        vae.encode(restored)

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            (2, 0.5, r"a Bernoulli covers, Boolean\(\); binarise"),
            (4, 4.0, r"a Codes covers, IntegerInterval\(lower_bound=0, upper_bound=3\)$"),
            (5, -1.0, rf"a Poisson covers, {COUNTS}"),
            (6, 16.0, "a GreyLevels covers, multiples of 1/16 from 0 to 1; divide"),
        ],
    )
    def test_of_a_table_the_column_decides(self, column, value, message, tmp_path):
        part = every_likelihood("Heterogeneous")
        x = part(torch.randn(20, LATENT_DIM)).sample()
        x[7, column] = value
        vae = vae_with(part)
        where = re.escape(f"data: found the value {value:g} at (7, {column}), outside the support of site 'x'")
        refused(vae.model, vae.guide, x, ValueError, f"^{where}, expected what {message}", tmp_path)

    @pytest.mark.parametrize(
        "name", ["Poisson", "NegativeBinomial", "ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial"]
    )
    def test_counts_that_no_mean_explains(self, name):
        part = every_likelihood(name)
        x = part(torch.randn(20, LATENT_DIM)).sample()
        index = (11, *(0,) * len(part.data_shape))
        x[index] = 5e6
        vae = vae_with(part)
        where = re.escape(
            f"x: found the count 5e+06 at {index}, above every mean of site 'x', expected at most high=1e+06"
        )
        with pytest.raises(ValueError, match=f"^{where} of its likelihood; give that a larger high$"):
            pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles=2)
        part.high = 1e7
        assert pyro_vae.log_likelihood(vae.model, vae.guide, x, num_particles=2).values.isfinite().all()

    def test_pyros_own_validation_refuses_it_too(self):
        for name, (value, _) in REFUSED.items():
            part = every_likelihood(name)
            x = part(torch.zeros(1, LATENT_DIM)).sample()
            x[0, 0] = value
            with pyro.validation_enabled(True), pytest.raises(ValueError, match="within the support"):
                part(torch.zeros(1, LATENT_DIM)).log_prob(x)
