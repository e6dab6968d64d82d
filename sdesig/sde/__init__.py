"""General SDEs, Ito <-> Stratonovich conversion, diffusion families, canonical form; `problems` has toy SDEs."""

from sdesig.sde.base import SDE, SDELike
from sdesig.sde.canonical import (
    CanonicalDenoiser,
    drift_clock,
    from_canonical,
    noise_clock,
    to_canonical,
)
from sdesig.sde.canonical_sde import CanonicalSDE
from sdesig.sde.contracts import Denoiser, SNRDenoiser
from sdesig.sde.conversion import ito_correction, to_ito, to_stratonovich
from sdesig.sde.denoisers import (
    EDMDenoiser,
    EpsilonDenoiser,
    ScoreDenoiser,
    VDenoiser,
    X0Denoiser,
)
from sdesig.sde.diffusions import Diffusion, ForwardDiffusion, ReverseDiffusion
from sdesig.sde.families import EDM, VE, VP, SubVP
from sdesig.sde.mixture import Mixture
from sdesig.sde.reference import GaussianReference
from sdesig.sde.schedules import BetaSchedule, CosineBeta, LinearBeta
from sdesig.sde.tabulated import TabulatedVP

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "BetaSchedule",
    "CanonicalDenoiser",
    "CanonicalSDE",
    "CosineBeta",
    "Denoiser",
    "Diffusion",
    "EDMDenoiser",
    "EpsilonDenoiser",
    "ForwardDiffusion",
    "GaussianReference",
    "LinearBeta",
    "Mixture",
    "ReverseDiffusion",
    "SDELike",
    "SNRDenoiser",
    "ScoreDenoiser",
    "SubVP",
    "TabulatedVP",
    "VDenoiser",
    "X0Denoiser",
    "drift_clock",
    "from_canonical",
    "ito_correction",
    "noise_clock",
    "to_canonical",
    "to_ito",
    "to_stratonovich",
]
