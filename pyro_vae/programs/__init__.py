"""Programs: a model and its guide, one pair a file."""

from pyro_vae.programs.conv_ladder import ConvLadderVAE
from pyro_vae.programs.hvae import HVAE
from pyro_vae.programs.ladder import LadderVAE
from pyro_vae.programs.vae import VAE

__all__ = ["HVAE", "VAE", "ConvLadderVAE", "LadderVAE"]
