"""Numbers on pages are those of committed results, wherever a comment says which; see `page_numbers`."""

import csv
import re

import pytest
from page_numbers import COMMENT, ROOT, renewed

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_numbers_of_pages_are_those_of_the_results(page):
    """Where they are not: `python tests/docs/page_numbers.py PAGE` writes them."""
    text = page.read_text()
    assert text.splitlines() == renewed(text).splitlines()


def test_the_page_of_benchmarks_says_where_its_numbers_are_from():
    assert len(COMMENT.findall((ROOT / "docs/benchmarks.md").read_text())) > 10


SOURCE = "<!--= mnist/results/report.json key=depth-4 steps=10 pathwise_rmse -->"
TABLE = "<!--= digits/demo/report.json steps=8 | =method | pathwise_rmse, pathwise_rmse_low | seeds_apart*100 | _ -->"


def test_other_numbers_are_found():
    assert renewed(f"In 10 steps .9, 0.999{SOURCE}, 7.") == f"In 10 steps .9, 0.117{SOURCE}, 7."
    assert renewed(f"```\n9.99{SOURCE}\n```") == f"```\n9.99{SOURCE}\n```"
    apart = '9 (1 - 2)<!--= mnist/results/targets.json target~"depth 4, 10 steps: FD" measured -->'
    assert renewed(apart).startswith("1 (1 - 1)")
    ratio = "few_steps/results/cifar10.json key=sde-dpm++2m steps=5 pathwise_rmse / key=path-average-even steps=5"
    assert renewed(f"9.9<!--= {ratio} -->").startswith("2.0<")
    benchmarks = ROOT / "experiments/benchmarks/results/foundation.csv"
    with benchmarks.open() as file:
        missed = sum(row["reached"] == "no" for row in csv.DictReader(file))
    assert renewed("99<!--= benchmarks/results/foundation.csv reached=no # -->").startswith(f"{missed}<")
    solves = ROOT / "experiments/work_precision/results/noncommutative.md"
    times = re.search(r"^\| 0.01 \| sdesig .* \| (\S+) \|$", solves.read_text(), re.M)[1]
    seconds = 'work_precision/results/noncommutative.md#error error=0.01 "the others\' seconds over ours"'
    assert renewed(f"9.9<!--= {seconds} -->").startswith(f"{times}<")
    lines = ["", "", "| a | b | c | d |", "|---|---|---|---|", "| DDIM | - | - | 3 |", "| UniPC | - | - | 3 |", ""]
    assert renewed(TABLE + "\n".join(lines)) == TABLE + "\n".join(lines)
    lines[-2] = "| Sig-DEG, depth 2 (shipped) | 0.1 (9.99) | 9.9 % | 3 |"
    assert "\n| Sig-DEG, depth 2 (shipped) | 0.0 (0.04) | 0.4 % | 3 |\n" in renewed(TABLE + "\n".join(lines))


@pytest.mark.parametrize(
    "text, said",
    [
        ("no number<!--= mnist/results/report.json key=depth-4 steps=10 pathwise_rmse -->", "has not the numbers"),
        ("9<!--= mnist/results/nothing.json key=depth-4 pathwise_rmse -->", "there is no file"),
        ("9<!--= mnist/results/report.json key=depth-4 pathwise_rmse -->", "rows match"),
        ("9<!--= mnist/results/report.json kind=depth-4 pathwise_rmse -->", "a row has no kind"),
        ("9<!--= mnist/results/report.json key=depth-4 steps=10 error -->", "'error'"),
        ("9<!--= mnist/results/report.json key=unipc steps=10 pathwise_rmse -->", "has not the numbers"),
        (f"{TABLE}\n\nno table", "no table follows"),
        (f"{TABLE}\n\n| a | b | c | d |\n|---|---|---|---|\n| DDIM | 0.1 | - | 3 |\n", "none of the results"),
        (f"{TABLE}\n\n| a | b | c |\n|---|---|---|\n| DDIM | - | - |\n", "columns"),
    ],
)
def test_what_cannot_be_compared_is_an_error(text, said):
    with pytest.raises(ValueError, match=said):
        renewed(text)
