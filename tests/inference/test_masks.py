"""Masks of missing entries: those that are none are refused, and those of masked arrays are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.inference.missing import pack
from tests.support.programs import vae

pytestmark = pytest.mark.usefixtures("double")


class TestMasksThatAreNone:
    """Data whose second slice is no mask are refused, and not cut or scored as if it were one."""

    @pytest.fixture
    def vae(self):
        return pyro_vae.VAE((4,), 2, (5,))

    @pytest.fixture
    def packed(self):
        x = torch.bernoulli(torch.full((6, 4), 0.5), generator=torch.Generator().manual_seed(0))
        return torch.stack([x, torch.full((6, 4), 7.0)], 1)

    def test_in_encodings(self, vae, packed):
        message = r"^x: found values from 7 to 7 in the mask, x\[:, 1\], expected 0 and 1: pyro_vae.pack\(x\) puts"
        for run in (vae.encode, vae.reconstruct):
            for data in (packed, packed.numpy(), torch.utils.data.DataLoader(packed, 4)):
                with pytest.raises(ValueError, match=message):
                    run(data)

    def test_in_scores_and_in_training(self, vae, packed):
        pair = pyro_vae.observed_only(vae.model, vae.guide)
        right = packed.clamp(max=1)
        scorer = pyro_vae.Scorer(*pair, num_particles=3, seed=0)
        scorer(right)
        for run in (
            lambda x: pyro_vae.log_likelihood(*pair, x, num_particles=3),
            scorer,
            lambda x: pyro_vae.fit(*pair, x, num_epochs=1, batch_size=2, progress=False),
            lambda x: pyro_vae.fit(*pair, right, valid=x, num_epochs=1, batch_size=2, progress=False),
        ):
            with pytest.raises(ValueError, match=r": found values from 1 to 7 in the mask, "):
                run(torch.cat([right[:5], packed[5:]]))


class TestMaskedArrays:
    def test_pack_takes_the_mask(self):
        x = np.ma.masked_array([[0.5, 99.0], [np.nan, 1.0]], mask=[[False, True], [False, False]])
        expected = torch.tensor([[[0.5, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
        assert torch.equal(pack(x), expected)
        with pytest.raises(ValueError, match="^mask: found one beside a masked array"):
            pack(x, ~x.mask)
        assert torch.equal(pack(np.ma.masked_array([[1, 2]], mask=[[True, False]])), torch.tensor([[[0.0, 2], [0, 1]]]))

    def test_others_refuse_it_where_something_is_masked(self):
        program = vae()
        x = np.ma.masked_array(np.zeros((12, 4)), mask=np.eye(12, 4) > 0)
        message = r"found 4 masked entries of 48, expected none; pyro_vae.pack keeps the mask"
        with pytest.raises(ValueError, match=f"^data: {message}"):
            pyro_vae.data.load(x)
        with pytest.raises(ValueError, match=f"^x: {message}"):
            program.encode(x)
        nothing = np.ma.masked_array(np.zeros((12, 4)), mask=False)
        assert pyro_vae.data.load(nothing).data_shape == (4,)

    def test_data_in_half_precision_become_single(self):
        assert pack(torch.ones(2, 3, dtype=torch.float16)).dtype == torch.float32
