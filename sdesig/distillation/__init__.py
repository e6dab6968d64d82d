"""Distillation of pre-trained denoisers into Sig-DEG: teacher paths, information floor, training, evaluation."""

from sdesig.distillation.choose_grid import choose_grid
from sdesig.distillation.distill import DistillOptions, distill
from sdesig.distillation.evaluate import Evaluation, evaluate
from sdesig.distillation.evaluation import Comparison
from sdesig.distillation.floor import Floor, information_floor
from sdesig.distillation.paths import TeacherOptions, TeacherPaths, draw_paths
from sdesig.distillation.teacher import train_teacher
from sdesig.distillation.training import TrainingOptions, train

__all__ = [
    "Comparison",
    "DistillOptions",
    "Evaluation",
    "Floor",
    "TeacherOptions",
    "TeacherPaths",
    "TrainingOptions",
    "choose_grid",
    "distill",
    "draw_paths",
    "evaluate",
    "information_floor",
    "train",
    "train_teacher",
]
