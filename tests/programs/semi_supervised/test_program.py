"""M2 as a program: what it classifies, draws and refuses."""

from __future__ import annotations

import functools

import pyro
import pytest
import torch

import pyro_vae
from pyro_vae import M2, MLP
from pyro_vae.objectives.labels import enumerated_bound, label_weights, semi_supervised_loss, summed_bound
from pyro_vae.programs.semi_supervised import Classifier
from tests.support.labelled_gaussian import CLASSES
from tests.support.m2 import B
from tests.support.programs import IMAGE, LATENT_DIM, bits, seeded


class TestProgram:
    def test_what_is_not_labelled_is_classified(self, m2, x):
        labels = m2.guide.classifier(x).logits.argmax(-1)
        assert torch.equal(m2.classify(x), labels) and len(labels.unique()) > 1
        packed = m2.pack(x, labels)
        torch.testing.assert_close(m2.encode(x), m2.encode(packed), rtol=0, atol=0)
        torch.testing.assert_close(m2.reconstruct(x), m2.reconstruct(packed), rtol=0, atol=0)
        assert not torch.equal(m2.encode(m2.pack(x, (labels + 1) % CLASSES)), m2.encode(packed))

    def test_draws_of_a_class(self, exact):
        m2 = exact.program(M2)
        with torch.no_grad():
            m2.likelihood.network.output.weight[:, :2] = 0  # the class is then all there is
        torch.testing.assert_close(m2.sample(2, y=[1, 0], mean=True), exact.means[[1, 0]], rtol=0, atol=1e-12)

    def test_it_is_saved_and_loaded(self, m2, x, tmp_path):
        pyro_vae.save(m2, tmp_path)
        loaded = pyro_vae.load(tmp_path)
        assert isinstance(loaded, M2)
        assert torch.equal(seeded(enumerated_bound, m2, x), seeded(enumerated_bound, loaded, x))

    def test_a_classifier_of_ones_own(self, x):
        classifier = Classifier(MLP(IMAGE, CLASSES, ()))
        m2 = M2(IMAGE, CLASSES, LATENT_DIM, (5,), classifier=classifier)
        assert m2.guide.classifier is classifier and m2.recipe["arguments"]["classifier"] == classifier.recipe
        with pytest.raises(TypeError, match="^classifier: found int, expected a module whose forward is a"):
            M2(IMAGE, CLASSES, LATENT_DIM, classifier=3)

    def test_devices_and_types(self, device):
        m2 = M2(IMAGE, CLASSES, LATENT_DIM, (5,)).to(device)
        x = bits(B).to(device)
        for bound in (functools.partial(enumerated_bound, m2), functools.partial(summed_bound, m2, num_particles=3)):
            assert (bound(x).shape, bound(x).dtype, bound(x).device.type) == ((B,), torch.float32, device.type)
        assert m2.classify(x).device.type == device.type

    def test_nothing_is_left_in_the_parameter_store(self, m2, x, y):
        semi_supervised_loss(m2, x, y, x, 1.0).backward()
        summed_bound(m2, x, 2)
        assert list(pyro.get_param_store().keys()) == []

    def test_data_of_another_shape_are_refused(self, m2, x):
        with pytest.raises(ValueError, match=r"^x: found the shape \(6, 16\), expected \(B, 4, 4\)"):
            label_weights(m2, x.flatten(1))
        with pytest.raises(ValueError, match="^num_particles: found 0, expected a positive integer"):
            label_weights(m2, x, 0)
