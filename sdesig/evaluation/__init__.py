"""Samplers side by side, on the same seeds and the same Brownian paths: errors, distances, seconds, reports."""

from sdesig._figures import (
    Look,
    draw_line,
    legend_below,
    legend_beside,
    log_axes,
    look_of,
    looks_of,
    panels,
    save_figure,
)
from sdesig._files import file_digest, read_json, replacing, write_json
from sdesig._intervals import paired_ratio, root_mean_square, root_mean_square_interval
from sdesig.evaluation.comparison import CONVERGED, Comparison
from sdesig.evaluation.evaluation import FEWEST, Evaluation, evaluate
from sdesig.evaluation.features import (
    COORDINATES,
    FeatureExtractor,
    PerceptualDistance,
    extract,
    load_extractor,
    load_perceptual,
    reference_statistics,
)
from sdesig.evaluation.frechet import FeatureStatistics, frechet_distance, frechet_ratio
from sdesig.evaluation.metrics import (
    Measured,
    kernel_distance,
    pathwise_errors,
    precision_recall,
    share_apart,
    spread_of,
)
from sdesig.evaluation.pixels import ImageSet, to_floats, to_uint8
from sdesig.evaluation.report import (
    FRECHET,
    INTERVALS,
    Row,
    error_figure,
    image_figure,
    markdown_table,
    report_text,
    table_cell,
)
from sdesig.evaluation.sample_store import SampleStore
from sdesig.evaluation.samplers import TRAINING_FREE, Sampler, generator_sampler, training_free
from sdesig.evaluation.verdict import VERDICT_EVALUATIONS, VERDICT_STEPS, Verdict, affordable, verdict

__all__ = [
    "CONVERGED",
    "COORDINATES",
    "FEWEST",
    "FRECHET",
    "INTERVALS",
    "TRAINING_FREE",
    "VERDICT_EVALUATIONS",
    "VERDICT_STEPS",
    "Comparison",
    "Evaluation",
    "FeatureExtractor",
    "FeatureStatistics",
    "ImageSet",
    "Look",
    "Measured",
    "PerceptualDistance",
    "Row",
    "SampleStore",
    "Sampler",
    "Verdict",
    "affordable",
    "draw_line",
    "error_figure",
    "evaluate",
    "extract",
    "file_digest",
    "frechet_distance",
    "frechet_ratio",
    "generator_sampler",
    "image_figure",
    "kernel_distance",
    "legend_below",
    "legend_beside",
    "load_extractor",
    "load_perceptual",
    "log_axes",
    "look_of",
    "looks_of",
    "markdown_table",
    "paired_ratio",
    "panels",
    "pathwise_errors",
    "precision_recall",
    "read_json",
    "reference_statistics",
    "replacing",
    "report_text",
    "root_mean_square",
    "root_mean_square_interval",
    "save_figure",
    "share_apart",
    "spread_of",
    "table_cell",
    "to_floats",
    "to_uint8",
    "training_free",
    "verdict",
    "write_json",
]
