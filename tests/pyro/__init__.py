"""Pyro's own tests of inference, run with this package's bounds: ``python -m tests.pyro.run --help``."""
