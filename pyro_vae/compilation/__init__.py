"""Compilation: a function of a batch, traced once into a graph of tensor operations and compiled to kernels."""
