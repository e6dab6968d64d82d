"""General SDEs, Ito <-> Stratonovich conversion, diffusion families; `problems` has toy SDEs."""

from sdesig.sde.base import SDE, Denoiser, SDELike
from sdesig.sde.calculus import ito_correction, to_ito, to_stratonovich
from sdesig.sde.denoisers import EDMDenoiser, EpsilonDenoiser, FlowDenoiser, ScoreDenoiser, VDenoiser, X0Denoiser
from sdesig.sde.diffusions import Diffusion, ForwardDiffusion, ReverseDiffusion
from sdesig.sde.families import EDM, VE, VP, BetaSchedule, CosineBeta, Flow, LinearBeta, SubVP, TabulatedVP
from sdesig.sde.mixture import Mixture

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "BetaSchedule",
    "CosineBeta",
    "Denoiser",
    "Diffusion",
    "EDMDenoiser",
    "EpsilonDenoiser",
    "Flow",
    "FlowDenoiser",
    "ForwardDiffusion",
    "LinearBeta",
    "Mixture",
    "ReverseDiffusion",
    "SDELike",
    "ScoreDenoiser",
    "SubVP",
    "TabulatedVP",
    "VDenoiser",
    "X0Denoiser",
    "ito_correction",
    "to_ito",
    "to_stratonovich",
]
