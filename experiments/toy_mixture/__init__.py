"""Sig-DEG on a mixture of eight Gaussians in the plane, whose denoiser is exact."""
