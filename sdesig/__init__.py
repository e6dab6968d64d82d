"""Exact partial signatures, consistent Brownian paths and SDE numerics on torchsde."""

__version__ = "0.1.0"
