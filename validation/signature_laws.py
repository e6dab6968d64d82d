"""The law of everything that is sampled: Gaussian words to depth 6, coefficients of paths, Levy areas of all methods.

Each row is a family of exact expectations compared with averages over independent samples, as z-scores with a
Bonferroni threshold; all rows together raise a false alarm with a probability of at most 1e-3.

The z-scores of a family depend on one another: the 715 statistics of the 21 Gaussian words are functions of six
normals. Their spread is therefore that of a few independent numbers: over 60 seeds the mean square of the 715 varied
from 0.3 to 2.9, with mean 1.04. The slope of a normal plot of all z-scores is chance, and so the figure shows the
largest of each family beside its threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from matplotlib.figure import Figure

from sdesig.brownian import BrownianPath
from sdesig.evaluation import panels
from sdesig.sampling import SNRClock
from sdesig.signature import JOINT_METHODS, gaussian_word_covariance, levy_area, sample_partial_signature
from sdesig.testing import LawReport, check_brownian_step, check_gaussian, check_moments
from validation.report import Point, Row, Stored, Study, law_row

DEPTH = 6
RATE = 5e-5  # for each of at most 20 rows
TERMS = 200  # of the series: what they neglect, at most 0.1 % of the variance, is below what 10^5 samples resolve
WEAK = ("davie", "foster", "four_moment")


def laws(samples: int) -> Iterator[tuple[str, LawReport]]:
    """(what, report) for each family of statistics."""
    generator = torch.Generator().manual_seed(0)
    places = [(a, b) for a in range(DEPTH) for b in range(DEPTH - a)]
    words = [(0,) * a + (1,) + (0,) * b for a, b in places]
    for h in (1.0, 2.0**-10):
        value = sample_partial_signature(samples, h, DEPTH, generator=generator, dtype=torch.float64)
        sampled = torch.stack([value.gaussian_word(a, b) for a, b in places], 1)
        yield (
            f"the {len(words)} Gaussian words of depth {DEPTH}, h = {h:g}",
            check_gaussian(sampled, gaussian_word_covariance(words, h), false_alarm_rate=RATE),
        )
        first, second = value.split(0.3 * h, generator=generator)
        parts = torch.cat([first.coefficients, second.coefficients]).T
        identity = torch.eye(2 * DEPTH, dtype=torch.float64)
        yield f"the parts of a split at 0.3 h, h = {h:g}", check_gaussian(parts, identity, false_alarm_rate=RATE)
    clock = SNRClock(0.3)
    for source, option in (("seeds", {"seeds": range(samples)}), ("generator", {"generator": generator})):
        path = BrownianPath(
            math.exp(-8), math.exp(8), (samples,), depth=3, clock=clock, cells=2**6, dtype=torch.float64, **option
        )
        grid = path.grid(64)
        path.partial_signature(grid[0], grid[13])  # so that the rest is drawn by conditioning
        steps = path.partial_signatures(grid[[0, 5, 13, 40, 64]])
        yield (
            f"four steps of a path from {source}, log-SNR -8..8, reference variance 0.3",
            check_gaussian(
                steps.coefficients.flatten(0, 1).T, torch.eye(12, dtype=torch.float64), false_alarm_rate=RATE
            ),
        )
    for method in JOINT_METHODS:
        value = sample_partial_signature((samples, 3), 0.5, 3, generator=generator, dtype=torch.float64)
        terms = None if method in WEAK else TERMS
        area = levy_area(
            value.increment, 0.5, coefficients=value.coefficients, method=method, terms=terms, generator=generator
        )
        yield (
            f"Levy area by {method!r} with W, H, K" + (", moments up to degree 2 in A" if method in WEAK else ""),
            check_brownian_step(
                0.5,
                increment=value.increment,
                space_time_area=value.space_time_area,
                space_time_time_area=value.space_time_time_area,
                levy_area=area,
                weak=method in WEAK,
                false_alarm_rate=RATE,
            ),
        )
    for method in ("foster", "four_moment"):
        yield f"Levy area by {method!r}, what it promises beyond that", check_weak_area(method, samples, generator)
    for method, dim in (("mronroe", 3), ("wiktorsson", 3), ("milstein", 3), ("exact2d", 2)):
        w = sample_partial_signature((samples, dim), 0.01, 1, generator=generator, dtype=torch.float64).increment
        area = levy_area(w, 0.01, method=method, terms=TERMS, generator=generator)
        yield (
            f"Levy area by {method!r} with W, d = {dim}",
            check_brownian_step(0.01, increment=w, levy_area=area, false_alarm_rate=RATE),
        )
    path = BrownianPath(
        0.0, 1.0, (samples // 4, 2), seeds=range(samples // 4), cells=2**4, area=True, dtype=torch.float64
    )
    for s, t in ((0.0, 0.0625), (0.25, 1.0)):
        value = path.partial_signature(s, t)
        yield (
            f"a step [{s}, {t}] of a path with areas",
            check_brownian_step(
                t - s,
                increment=value.increment,
                space_time_area=value.space_time_area,
                levy_area=value.levy_area,
                false_alarm_rate=RATE,
            ),
        )


def check_weak_area(method: str, samples: int, generator: torch.Generator) -> LawReport:
    """Check, of the path's area given its first three Legendre coefficients, what only some weak methods match.

    With h = 1, d = 2 and R = A_01 - E[A_01 | W, H, K], E[R^2 | W, H, K] = (1/7 + (xi_{2,0}^2 + xi_{2,1}^2)/35)/4; and
    for "four_moment" also E A_01^4 = 5/16.
    """
    xi = torch.randn(3, samples, 2, generator=generator, dtype=torch.float64)
    area = levy_area(xi[0], 1.0, coefficients=xi, method=method, generator=generator)[:, 0, 1]
    cross = xi[:-1, :, 0] * xi[1:, :, 1] - xi[:-1, :, 1] * xi[1:, :, 0]
    residual = area - (cross[0] / math.sqrt(3) + cross[1] / math.sqrt(15)) / 2
    norm2 = xi[2].square().sum(-1)
    excess = residual.square() - (1 / 7 + norm2 / 35) / 4
    statistics = {"R^2 given W, H, K": (excess, 0.0), "R^2 |xi_2|^2": (excess * norm2, 0.0)}
    if method == "four_moment":
        statistics["A^4"] = (area.pow(4), 5 / 16)
    columns, expected = zip(*statistics.values(), strict=True)
    return check_moments(torch.stack(columns, 1), expected, names=list(statistics), false_alarm_rate=RATE)


def run(samples: int, report: Callable[[Row], None]) -> list[Point]:
    """Report the rows, which have all that the figure shows."""
    for what, law in laws(samples):
        report(law_row(what, law))
    return []


def draw(rows: Sequence[Stored], points: Sequence[Point]) -> Figure:
    """The largest z-score of every family beside its threshold."""
    figure, axis = panels(figsize=(10, 0.34 * len(rows) + 1.6))
    places = range(len(rows))
    scores = [float(row["measured"]) for row in rows]
    thresholds = [(float(row["ci_high"]) - float(row["ci_low"])) / 2 for row in rows]
    axis.barh(
        places,
        [2 * t for t in thresholds],
        left=[-t for t in thresholds],
        color="0.9",
        label=f"within the threshold (false-alarm rate {RATE:g} a family)",
    )
    axis.plot(scores, places, "o", color="#0072B2", label="the largest z-score of the family")
    axis.axvline(0, color="0.5", lw=1)
    names = [f"{row['case']} ({row['theory'].split(' statistics')[0].split()[-1]} statistics)" for row in rows]
    axis.set_yticks(places, names, fontsize="small")
    samples = rows[0]["theory"].partition("of n = ")[2].partition(";")[0]
    reach = 1.1 * max(thresholds)
    axis.set(xlabel="z-score", xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
    axis.set_title(f"laws of sampled signatures, {samples} samples", fontsize="medium")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


STUDY = Study(
    "signature_laws",
    f"Gaussian words to depth {DEPTH}, steps of paths, Levy areas: their joint law; false alarms below 1e-3.",
    run,
    draw,
    quick=40_000,
    full=400_000,
)
