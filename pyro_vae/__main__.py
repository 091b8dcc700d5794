"""Run the console command as a module: ``python -m pyro_vae train``, or ``torchrun -m pyro_vae train``."""

import sys

from pyro_vae.commands.console import main

if __name__ == "__main__":
    sys.exit(main())
