"""Diagnostics of the latents: KL, active units, mutual information and collapse."""

from pyro_vae.diagnostics.activity import active_units, posterior_means
from pyro_vae.diagnostics.diagnosis import Diagnosis, diagnose
from pyro_vae.diagnostics.mutual_information import Information, information

__all__ = ["Diagnosis", "Information", "active_units", "diagnose", "information", "posterior_means"]
