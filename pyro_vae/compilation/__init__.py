"""Compilation: a function of a batch, traced once into a graph of tensor operations and compiled to kernels."""

from pyro_vae.compilation.compiled import Compile, Compiled, Lower, Outputs, inductor, make_reporter

__all__ = ["Compile", "Compiled", "Lower", "Outputs", "inductor", "make_reporter"]
