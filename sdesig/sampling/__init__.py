"""Sampling of diffusion models without training, in canonical variables.

| for | there is |
|---|---|
| a denoiser D(x, t) of yours, or a D(y, snr) | `CanonicalDenoiser`, `SNRDenoiser` |
| the reverse SDE, and schemes for it | `CanonicalSDE`; `PathAverage`, `DPMSolver1`, `DPMSolver2M` |
| other few-step samplers as schemes, to compare with | `DPMSolver3M`, `SEEDS2`, `ERSDESolver3`, `IPNDM4` |
| what is known of the data beforehand | `GaussianReference` |
| the moments of converged paths, in few steps | `calibrate`, `Calibrated` |
| what a seed means, and where steps lie | `PathSpace`; `StepGrid`, `choose_grid` |
| fine solutions, and what coarse steps can know of them | `draw_paths`, `teacher_samples`; `information_floor` |
| how far two laws are apart | `marginal_distance` |
"""

from sdesig.sampling.calibration import Calibrated, StepMoments, calibrate
from sdesig.sampling.canonical import (
    CanonicalDenoiser,
    CanonicalSDE,
    ReverseScheme,
    SNRDenoiser,
    from_canonical,
    to_canonical,
)
from sdesig.sampling.choose_grid import LAW_FOR_IMAGES, choose_grid
from sdesig.sampling.dpm_solver import DPMSolver1, DPMSolver2M, DPMSolver3M
from sdesig.sampling.er_sde import ERSDESolver3
from sdesig.sampling.gaussian_reference import GaussianReference, SNRClock, drift_clock, noise_clock
from sdesig.sampling.information_floor import Floor, information_floor
from sdesig.sampling.ipndm import IPNDM4
from sdesig.sampling.marginal_distance import marginal_distance
from sdesig.sampling.path_average import PathAverage
from sdesig.sampling.path_space import PathSpace, StepGrid
from sdesig.sampling.seeds import SEEDS2
from sdesig.sampling.teacher_paths import TeacherOptions, TeacherPaths, draw_paths, teacher_samples
from sdesig.solvers import SCHEMES

__all__ = [
    "IPNDM4",
    "LAW_FOR_IMAGES",
    "SEEDS2",
    "Calibrated",
    "CanonicalDenoiser",
    "CanonicalSDE",
    "DPMSolver1",
    "DPMSolver2M",
    "DPMSolver3M",
    "ERSDESolver3",
    "Floor",
    "GaussianReference",
    "PathAverage",
    "PathSpace",
    "ReverseScheme",
    "SNRClock",
    "SNRDenoiser",
    "StepGrid",
    "StepMoments",
    "TeacherOptions",
    "TeacherPaths",
    "calibrate",
    "choose_grid",
    "draw_paths",
    "drift_clock",
    "from_canonical",
    "information_floor",
    "marginal_distance",
    "noise_clock",
    "teacher_samples",
    "to_canonical",
]

SCHEMES.update(dpm_solver_1=DPMSolver1, dpm_solver_2m=DPMSolver2M, path_average=PathAverage)
SCHEMES.update(dpm_solver_3m=DPMSolver3M, seeds_2=SEEDS2, er_sde_3=ERSDESolver3, ipndm_4=IPNDM4)
