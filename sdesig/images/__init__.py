"""Image diffusion models as teachers (extra `images`); importing this makes their kinds known to `SigDEG.load`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdesig.images.checkpoints import ScoreSDEDenoiser, load_edm, load_score_sde
from sdesig.images.diffusers_unet import DiffusersUNet, import_diffusers
from sdesig.images.image_network import compile_network, image_network
from sdesig.images.latent import Autoencoder, load_autoencoder
from sdesig.images.peers import peer_samples, peers, peers_on_both_grids
from sdesig.images.song_unet import SongUNet
from sdesig.images.teachers import DiffusersDenoiser, load_teacher

if TYPE_CHECKING:
    from sdesig.images.image_data import load_images
    from sdesig.images.path_average_scheduler import PathAverageScheduler
    from sdesig.images.sig_deg_pipeline import SigDEGPipeline

__all__ = [
    "Autoencoder",
    "DiffusersDenoiser",
    "DiffusersUNet",
    "PathAverageScheduler",
    "ScoreSDEDenoiser",
    "SigDEGPipeline",
    "SongUNet",
    "compile_network",
    "image_network",
    "load_autoencoder",
    "load_edm",
    "load_images",
    "load_score_sde",
    "load_teacher",
    "peer_samples",
    "peers",
    "peers_on_both_grids",
]

_LAZY = {
    "PathAverageScheduler": "path_average_scheduler",
    "SigDEGPipeline": "sig_deg_pipeline",
    "load_images": "image_data",
}
"""Names whose modules import diffusers or Pillow."""


def __getattr__(name: str) -> Any:
    """A name of `_LAZY`, when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "load_images":
        import_diffusers()  # its error names the extra
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
