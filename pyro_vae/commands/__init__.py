"""What the console command ``pyro-vae`` does, from training to export; ``examples/train_vae.py`` calls the same."""
