"""Sig-DEG on MNIST."""
