"""Colours that come last: which shapes are refused, which are moved and which are taken as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_vae.data.loading import load


@pytest.mark.parametrize("shape", [(20, 8, 8, 3), (20, 5, 9, 1), (20, 8, 8, 4)])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_channels_that_are_last_are_refused_or_moved(kind, shape):
    x = kind(np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8))
    move = "permute" if isinstance(x, torch.Tensor) else "transpose"
    message = (
        rf"^data: found shape \({', '.join(map(str, shape))}\), which looks like pictures \(N, H, W, C\) with their "
    )
    with pytest.raises(
        ValueError, match=message + rf"channels last, .* give x.{move}\(0, 3, 1, 2\), or channels='last'"
    ):
        load(x)
    moved = load(x, channels="last").train.values
    assert torch.equal(moved, load(torch.as_tensor(x).permute(0, 3, 1, 2)).train.values)
    assert torch.equal(load(x, channels="first").train.values.permute(0, 3, 1, 2), moved)


@pytest.mark.parametrize("shape", [(20, 3, 8, 3), (20, 1, 8, 1), (20, 3, 4, 4), (20, 8, 8), (20, 8, 8, 5), (20, 8, 3)])
def test_other_shapes_are_taken_as_they_are(shape):
    assert load(torch.zeros(shape)).data_shape == shape[1:]


def test_only_four_dimensions_have_channels_to_move():
    with pytest.raises(
        ValueError, match=r"^channels: found 'last' for data of shape \(20, 8, 3\), expected \(N, H, W,"
    ):
        load(torch.zeros(20, 8, 3), channels="last")
    with pytest.raises(ValueError, match=r"^channels: found 'hwc', expected one of 'auto', 'first', 'last'"):
        load(torch.zeros(20, 8, 3), channels="hwc")
