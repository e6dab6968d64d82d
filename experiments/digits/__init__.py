"""Sig-DEG on handwritten digits: full training, what matters, and the networks that the package ships."""
