"""Sig-DEG on CIFAR-10."""
