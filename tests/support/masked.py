"""Images of which some pixels are missing."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.support.programs import IMAGE, bits

B = 6


def masked_images() -> tuple[Tensor, Tensor]:
    """Black and white images in float64, and a mask that observes three of five pixels."""
    generator = torch.Generator().manual_seed(2)
    return bits(B).double(), torch.rand(B, *IMAGE, generator=generator) < 0.6
