"""Sig-DEG on CelebA."""
