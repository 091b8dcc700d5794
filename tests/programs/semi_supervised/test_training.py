"""M2 trained on data of which some have a label: by fit, compiled and not, and by SVI."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from pyro_vae import M2, ConditionalVAE, SemiSupervised, anneal_kl, fit
from pyro_vae.compilation import compiled
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.schedules import Linear
from tests.support.labelled_gaussian import CLASSES
from tests.support.m2 import SOME
from tests.support.programs import IMAGE, LATENT_DIM, bits, check_close, traced, weights


class TestFit:
    def patterns(self, named=CLASSES):
        """Three patterns, with one label each; the classifier has to learn them on the data without labels."""
        torch.random.default_generator.manual_seed(0)
        m2 = M2((CLASSES,), CLASSES, 1, (4,))
        x, y = torch.eye(CLASSES).repeat(11, 1), torch.full((11 * CLASSES,), -1)
        y[:named] = torch.tensor([2, 0, 1])[:named]
        return m2, x, y

    @pytest.mark.parametrize(
        "weighed", [pytest.param(False, id="plain"), pytest.param(True, id="annealed", marks=pytest.mark.cross)]
    )
    def test_a_few_labels_name_the_classes_of_many_data(self, weighed):
        m2, x, y = self.patterns()
        halves = anneal_kl(m2.model, m2.guide, Linear(80, start=3.0, end=1.0)) if weighed else (m2.model, m2.guide)
        history = fit(
            *halves, m2.pack(x, y), objective=SemiSupervised(0.1 * 33 / 3), num_epochs=100, batch_size=33, lr=0.03,
            seed=0, progress=False, valid=m2.pack(x, y),
        )  # fmt: skip
        assert torch.equal(m2.classify(x), y[:3].repeat(11))
        last = history.records[-1]
        # log p(x) and log p(x, y) are -log 3 at best
        assert -1.6 < last["valid_bound"] < -math.log(3) and last["train_loss"] > -last["train_bound"]
        if not weighed:  # the term with alpha
            assert last["valid_loss"] > -last["valid_bound"]
        torch.testing.assert_close(
            mean_bound(*halves, m2.pack(x, y), SemiSupervised(9.0), seed=0), last["valid_bound"], rtol=0, atol=1e-3
        )

    def test_compiled_it_takes_the_same_path(self, monkeypatch):
        monkeypatch.setattr(compiled, "inductor", traced)
        runs = []
        for compile in (False, True):
            m2, x, y = self.patterns()
            m2.double()
            history = fit(
                m2.model, m2.guide, m2.pack(x.double(), y), objective=SemiSupervised(1.0), num_epochs=3, batch_size=11,
                lr=0.03, seed=0, progress=False, compile=compile,
            )  # fmt: skip
            assert history.fallback is None
            runs.append({**weights(m2), "bound": torch.tensor(history.records[-1]["train_bound"])})
        check_close(*runs, rtol=0, atol=1e-9)

    def test_labelled_data_are_compiled_under_other_objectives(self, monkeypatch):
        """What holds labels against the classes reads values, and stays out of the graph."""
        monkeypatch.setattr(compiled, "inductor", traced)
        cvae = ConditionalVAE((4,), 3, 2, (5,))
        packed = cvae.pack(bits(24).flatten(1)[:, :4], torch.arange(24) % 3)
        history = fit(cvae.model, cvae.guide, packed, num_epochs=1, batch_size=6, progress=False, compile=True)
        assert history.fallback is None

    def test_svi_trains_every_part(self, m2, x):
        before = weights(m2)
        svi = SVI(m2.model, m2.guide, pyro.optim.Adam({"lr": 0.01}), loss=SemiSupervised(1.0))
        svi.step(m2.pack(x, SOME))
        after = weights(m2)
        assert all(not torch.equal(before[f"0.{name}"], after[f"0.{name}"]) for name, _ in m2.named_parameters())

    def test_a_bound_that_is_not_finite_is_traced_to_its_site(self, m2, x):
        with pytest.raises(FloatingPointError, match="the first value not finite is the log-probability of site 'z'"):
            fit(
                m2.model, m2.guide, m2.pack(x, SOME), objective=SemiSupervised(1.0), num_epochs=1, batch_size=3,
                lr=1e300, progress=False,
            )  # fmt: skip

    def test_a_last_batch_of_one_is_refused_as_ever(self, x):
        m2 = M2(IMAGE, CLASSES, LATENT_DIM, classifier=WithBatchNorm())
        data, options = m2.pack(x.float(), SOME), {"objective": SemiSupervised(1.0), "num_epochs": 1, "progress": False}
        with pytest.raises(ValueError, match="^batch_size: found one that leaves a last batch of (one|1) of 6 data"):
            fit(m2.model, m2.guide, data, batch_size=5, **options)
        assert len(fit(m2.model, m2.guide, data, batch_size=3, **options).records) == 1


class WithBatchNorm(nn.Module):
    """A classifier with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.norm, self.output = nn.BatchNorm1d(16), nn.Linear(16, CLASSES)

    def forward(self, x):
        return dist.Categorical(logits=self.output(self.norm(x.flatten(1))))
