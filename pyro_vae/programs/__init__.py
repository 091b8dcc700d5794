"""Programs: pairs of a model and its guide, one pair a file."""

from pyro_vae.programs.conditional import ConditionalVAE
from pyro_vae.programs.conv_ladder import ConvLadderVAE
from pyro_vae.programs.hvae import HVAE
from pyro_vae.programs.ladder import LadderVAE
from pyro_vae.programs.semi_supervised import M2
from pyro_vae.programs.vae import VAE
from pyro_vae.programs.vq_vae import VQVAE, perplexity
from pyro_vae.programs.wrapped import wrap

__all__ = ["HVAE", "M2", "VAE", "VQVAE", "ConditionalVAE", "ConvLadderVAE", "LadderVAE", "perplexity", "wrap"]
