"""Sig-DEG: a recurrent generator on a coarse grid of the SNR clock, fed partial signatures, and its distillation."""

from sdesig._modules import WEIGHTS
from sdesig._processes import join as join_processes
from sdesig._processes import main_first, on_main
from sdesig.sigdeg.cells import Cell, CorrectedDenoiser, PlainCell, SolverCell, StepCoefficients
from sdesig.sigdeg.distillation import DistillOptions, distill, rollout_loss
from sdesig.sigdeg.network_denoiser import ModelDenoiser, NetworkDenoiser
from sdesig.sigdeg.networks import MLP, Network, UNet
from sdesig.sigdeg.samples import Samples
from sdesig.sigdeg.sig_deg import SigDEG
from sdesig.sigdeg.train_teacher import train_teacher
from sdesig.sigdeg.training import TrainingOptions, train

__all__ = [
    "MLP",
    "WEIGHTS",
    "Cell",
    "CorrectedDenoiser",
    "DistillOptions",
    "ModelDenoiser",
    "Network",
    "NetworkDenoiser",
    "PlainCell",
    "Samples",
    "SigDEG",
    "SolverCell",
    "StepCoefficients",
    "TrainingOptions",
    "UNet",
    "distill",
    "join_processes",
    "main_first",
    "on_main",
    "rollout_loss",
    "train",
    "train_teacher",
]
