"""The law of everything that is sampled: Gaussian words to depth 6, coefficients of paths, Levy areas of all methods.

Each row is a family of exact expectations compared with averages over independent samples, as z-scores with a
Bonferroni threshold; all rows together raise a false alarm with a probability of at most 1e-3.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from scipy import stats

from sdesig._files import replacing
from sdesig.brownian import BrownianPath, SNRClock
from sdesig.signature import gaussian_word_covariance, levy_area, sample_partial_signature
from sdesig.signature.areas import JOINT_METHODS
from sdesig.testing import LawReport, check_brownian_step, check_gaussian

DEPTH = 6
RATE = 5e-5  # for each of fewer than 20 rows
TERMS = 200  # of the series: what they neglect, at most 0.1 % of the variance, is below what 10^5 samples resolve
WEAK = ("davie", "foster", "four_moment")


def rows(samples: int) -> Iterator[tuple[str, LawReport]]:
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
            math.exp(-8), math.exp(8), (samples,), depth=3, clock=clock, levels=6, dtype=torch.float64, **option
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
    for method, dim in (("mronroe", 3), ("wiktorsson", 3), ("milstein", 3), ("exact2d", 2)):
        w = sample_partial_signature((samples, dim), 0.01, 1, generator=generator, dtype=torch.float64).increment
        area = levy_area(w, 0.01, method=method, terms=TERMS, generator=generator)
        yield (
            f"Levy area by {method!r} with W, d = {dim}",
            check_brownian_step(0.01, increment=w, levy_area=area, false_alarm_rate=RATE),
        )
    path = BrownianPath(
        0.0, 1.0, (samples // 4, 2), seeds=range(samples // 4), levels=4, area=True, dtype=torch.float64
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


def run(out: Path, full: bool) -> bool:
    """Write signature_laws.csv, .md and .png to `out`; return whether all rows agree with theory."""
    reports = list(rows(400_000 if full else 40_000))
    table = [
        (
            what,
            report.n,
            len(report.names),
            report.worst,
            report.z_scores.abs().max().item(),
            report.threshold,
            report.passed,
        )
        for what, report in reports
    ]
    with replacing(out / "signature_laws.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("what", "n", "statistics", "worst", "largest |z|", "threshold", "passed"))
        writer.writerows((*row[:4], f"{row[4]:.3f}", f"{row[5]:.3f}", row[6]) for row in table)
    lines = ["# Laws of partial signatures", "", "Written by `make validate`.", ""]
    lines += ["| what | n | statistics | largest z | threshold | passed |", "|---|---|---|---|---|---|"]
    for what, n, count, _, z, threshold, passed in table:
        lines.append(f"| {what} | {n} | {count} | {z:.2f} | {threshold:.2f} | {'yes' if passed else 'NO'} |")
        print(f"{'pass' if passed else 'FAIL'}  {what}: |z| <= {z:.2f} of {count}, threshold {threshold:.2f}")
    with replacing(out / "signature_laws.md") as path:
        path.write_text("\n".join([*lines, "", "![z-scores](signature_laws.png)", ""]), encoding="utf-8")
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    scores = torch.cat([report.z_scores for _, report in reports]).sort().values
    axis.plot(stats.norm.ppf((torch.arange(len(scores)) + 0.5) / len(scores)), scores, ".", ms=3)
    axis.axline((0, 0), slope=1, color="C1", lw=1)
    axis.set(xlabel="normal quantiles", ylabel="z-scores", title=f"{len(scores)} statistics of sampled signatures")
    with replacing(out / "signature_laws.png") as path:
        figure.savefig(path, format="png", dpi=130)
    plt.close(figure)
    return all(report.passed for _, report in reports)
