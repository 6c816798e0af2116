"""Compute kernels shared by methods; each family has a plain reference beside its fast forms."""
