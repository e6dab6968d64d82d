"""Image diffusion models as teachers (extra `images`); importing this makes their kinds known to `SigDEG.load`."""

from sdesig.images.latent import Autoencoder, load_autoencoder
from sdesig.images.networks import DiffusersUNet
from sdesig.images.teachers import DiffusersDenoiser, load_teacher

__all__ = ["Autoencoder", "DiffusersDenoiser", "DiffusersUNet", "load_autoencoder", "load_teacher"]
