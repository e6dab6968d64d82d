"""Image diffusion models as teachers (extra `images`); importing this makes their kinds known to `SigDEG.load`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdesig.images.checkpoints import ScoreSDEDenoiser, load_edm, load_score_sde
from sdesig.images.diffusers_unet import DiffusersUNet, import_diffusers
from sdesig.images.latent import Autoencoder, load_autoencoder
from sdesig.images.peers import peer_samples, peers
from sdesig.images.song_unet import SongUNet
from sdesig.images.teachers import DiffusersDenoiser, load_teacher

if TYPE_CHECKING:
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
    "load_autoencoder",
    "load_edm",
    "load_score_sde",
    "load_teacher",
    "peer_samples",
    "peers",
]

_NEED_DIFFUSERS = {"PathAverageScheduler": "path_average_scheduler", "SigDEGPipeline": "sig_deg_pipeline"}


def __getattr__(name: str) -> Any:
    """What needs diffusers as soon as it is imported."""
    if name not in _NEED_DIFFUSERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_diffusers()
    return getattr(import_module(f"{__name__}.{_NEED_DIFFUSERS[name]}"), name)
