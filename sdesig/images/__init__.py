"""Image diffusion models as teachers (extra `images`); importing this makes their kinds known to `SigDEG.load`."""

from sdesig.images.checkpoints import ScoreSDEDenoiser, load_edm, load_score_sde
from sdesig.images.latent import Autoencoder, load_autoencoder
from sdesig.images.networks import DiffusersUNet
from sdesig.images.song_unet import SongUNet
from sdesig.images.teachers import DiffusersDenoiser, load_teacher
from sdesig.images.unipc import peer_samples

__all__ = [
    "Autoencoder",
    "DiffusersDenoiser",
    "DiffusersUNet",
    "ScoreSDEDenoiser",
    "SongUNet",
    "load_autoencoder",
    "load_edm",
    "load_score_sde",
    "load_teacher",
    "peer_samples",
]
