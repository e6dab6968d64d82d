"""Samplers side by side, on the same seeds and the same Brownian paths: errors, distances, seconds, reports."""

from sdesig.evaluation.comparison import Comparison
from sdesig.evaluation.evaluation import Evaluation, evaluate

__all__ = ["Comparison", "Evaluation", "evaluate"]
