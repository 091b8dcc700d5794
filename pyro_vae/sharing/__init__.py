"""Programs in the forms that others read: networks in files without Pyro, programs with a card on a hub."""

from pyro_vae.sharing.cards import model_card
from pyro_vae.sharing.exporting import export
from pyro_vae.sharing.hub import from_hub, push_to_hub

__all__ = ["export", "from_hub", "model_card", "push_to_hub"]
