"""Data of which some have a label, packed, and refused where they have no density."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

import pyro_vae
from pyro_vae import ELBO, VAE, ConditionalVAE, SemiSupervised, fit
from tests.support.labelled_gaussian import CLASSES
from tests.support.m2 import SOME
from tests.support.programs import IMAGE, LATENT_DIM

REFUSED = r"y: found labels of shape \([26],\) .* from -1(\.0)? to [02](\.0)?, expected integers from 0 to 2; "
REFUSED += r"data without a label \(-1\) train M2 by pyro_vae\.SemiSupervised"


class TestPacked:
    def test_no_label_is_packed_for_m2_alone(self, m2, x):
        packed = m2.pack(x, SOME)
        assert torch.equal(packed[:, -1].long(), SOME)
        labels = SOME.clamp(min=0)
        assert torch.equal(m2.pack(x, labels.byte()), m2.pack(x, labels))
        with pytest.raises(ValueError, match=r"from -2 to 2, expected integers from 0 to 2, or -1 for no label"):
            m2.pack(x, SOME.where(SOME >= 0, -2))
        cvae = ConditionalVAE(IMAGE, CLASSES, LATENT_DIM, (5,))
        with pytest.raises(ValueError, match=r"from -1 to 2, expected integers from 0 to 2$"):
            cvae.pack(x, SOME)

    def test_what_has_no_label_is_classified(self, m2, x):
        completed = m2.pack(x, torch.where(SOME >= 0, SOME, m2.classify(x)))
        assert torch.equal(m2.encode(m2.pack(x, SOME)), m2.encode(completed))
        assert torch.equal(m2.reconstruct(m2.pack(x, SOME)), m2.reconstruct(completed))
        assert not torch.equal(m2.encode(m2.pack(x, SOME)), m2.encode(x))  # the known labels are kept


class TestRefused:
    def test_by_the_programs_and_other_objectives(self, m2, x):
        packed = m2.pack(x, SOME)
        for half in (m2.model, m2.guide):
            for arguments in ((x, SOME), (packed,)):
                with pytest.raises(ValueError, match=f"^{REFUSED}"):
                    half(*arguments)
        for call in (
            lambda: ELBO().bound(m2.model, m2.guide, packed),
            lambda: SVI(m2.model, m2.guide, pyro.optim.Adam({}), loss=ELBO()).step(packed),
            lambda: pyro_vae.log_likelihood(m2.model, m2.guide, packed, 2),
            lambda: pyro_vae.log_weights(m2.model, m2.guide, packed),
            lambda: pyro_vae.diagnose(m2.model, m2.guide, packed),
            lambda: fit(m2.model, m2.guide, packed, progress=False, batch_size=6),
        ):
            with pytest.raises(ValueError, match=REFUSED):
                call()

    @pytest.mark.parametrize("wrong", [-2, 3, 0.5, math.nan])
    def test_labels_that_are_none(self, wrong, m2, x):
        packed = m2.pack(x, SOME)
        packed[1, -1] = wrong
        objective = SemiSupervised(1.0)
        message = "expected (integers from -1 to 2|finite numbers)"
        with pytest.raises(ValueError, match=message):
            objective.bound(m2.model, m2.guide, packed)
        with pytest.raises(ValueError, match=message):
            fit(m2.model, m2.guide, packed, objective=objective, batch_size=6, progress=False)

    def test_labels_of_another_shape(self, m2, x):
        with pytest.raises(ValueError, match=r"^y: found labels of shape \(6, 1\), expected one for each of 6 data"):
            SemiSupervised(1.0).estimate(m2.model, m2.guide, x, SOME[:, None])

    def test_other_programs(self, m2, x):
        vae, cvae = VAE(IMAGE, 2, (5,)), ConditionalVAE(IMAGE, CLASSES, 2, (5,))
        objective = SemiSupervised(1.0)
        message = "^model, guide: found .*, expected the model and the guide of a pyro_vae.M2"
        for halves in (
            (vae.model, vae.guide),
            (cvae.model, m2.guide),
            (m2.model, cvae.guide),
            (m2.guide, m2.model),
            (lambda x: None, lambda x: None),
        ):
            with pytest.raises(pyro_vae.ProgramError, match=message):
                objective.bound(*halves, x)
        with pytest.raises(pyro_vae.ProgramError, match=message):
            fit(vae.model, vae.guide, x.float(), objective=objective, batch_size=6, progress=False)

    def test_a_latent_without_a_path(self, m2, x):
        m2.guide.posterior = Stepped(m2.guide.posterior)
        with pytest.raises(pyro_vae.ProgramError, match="^site 'z': found a latent that cannot be reparameterised"):
            SemiSupervised(1.0).bound(m2.model, m2.guide, m2.pack(x, SOME))

    @pytest.mark.parametrize("alpha", [-1.0, math.inf, "much", None])
    def test_weights_that_are_none(self, alpha):
        with pytest.raises((ValueError, TypeError), match="^alpha: found .*, expected a finite number, 0 or more"):
            SemiSupervised(alpha)

    def test_it_says_what_it_is(self):
        assert repr(SemiSupervised(0.5, 2)) == "SemiSupervised(alpha=0.5, kl='analytic', num_particles=2)"


class Stepped(nn.Module):
    """A posterior whose draws have no gradient."""

    class Normal(dist.Normal):
        has_rsample = False

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self, x, y):
        q = self.posterior(x, y)
        return self.Normal(q.mean, q.base_dist.scale).to_event(1)
