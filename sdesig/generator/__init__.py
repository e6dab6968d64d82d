"""Sig-DEG: a recurrent generator on a coarse grid of the SNR clock, fed partial signatures."""

from sdesig.generator.cells import Cell, CorrectedDenoiser, PlainCell, SolverCell, StepCoefficients
from sdesig.generator.denoiser import ModelDenoiser, NetworkDenoiser
from sdesig.generator.grid import StepGrid
from sdesig.generator.networks import MLP, Network, UNet
from sdesig.generator.sig_deg import Samples, SigDEG

__all__ = [
    "MLP",
    "Cell",
    "CorrectedDenoiser",
    "ModelDenoiser",
    "Network",
    "NetworkDenoiser",
    "PlainCell",
    "Samples",
    "SigDEG",
    "SolverCell",
    "StepCoefficients",
    "StepGrid",
    "UNet",
]
