"""Numbers of pages that are those of committed results, by comments of which a reader sees nothing.

A number is followed by where it is from, without a space before the comment:

    ends 0.117<!--= mnist/results/report.json key=depth-4 steps=10 pathwise_rmse --> per pixel
    1.02 (1.00 - 1.04)<!--= mnist/results/targets.json target~"depth 4, 10 steps: FD" measured -->

and a table follows a comment that says what its columns are; `=name` tells the row of the results, `_` is not compared:

    <!--= digits/demo/report.json | =method | =steps | pathwise_rmse, pathwise_rmse_low, pathwise_rmse_high | _ -->

First comes a file, from the top of the repository or from `experiments/`: a .csv; a .json, a list of rows or an object
with one, `rows` unless `file.json#name` says otherwise, or with an object of that name that has `rows`; or the tables
of a .md whose first column has a title, `file.md#title`. Then filters, `name=value` or `name~part`, which leave one
row, and last the fields, with commas between. Of a text all numbers count, `#` is how many rows are left, `name*100` a
percentage, `... / name=value ...` divides by the same field of another row of the file. As many numbers of the page as
that gives, the last ones before the comment, must be equal to it in the digits that they show.

    python tests/docs/page_numbers.py README.md docs/benchmarks.md     # writes what the results say now
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMENT = re.compile(r"<!--=\s(.*?)\s-->", re.S)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)")
IN_RESULTS = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
TABLE = re.compile(r"(?:^\|.*\n)+", re.M)
FENCED = re.compile(r"(^```.*?^```$)", re.M | re.S)
Row = dict[str, Any]


@cache
def rows_of(name: str) -> list[Row]:
    """The rows of a file of results."""
    name, _, part = name.partition("#")
    file = next((file for file in (ROOT / name, ROOT / "experiments" / name) if file.exists()), None)
    if file is None:
        raise ValueError(f"there is no file {name}, nor experiments/{name}")
    if file.suffix == ".md":
        tables = [table.splitlines() for table in TABLE.findall(file.read_text())]
        tables = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table] for table in tables]
        return [dict(zip(head, line, strict=True)) for head, _, *lines in tables if head[0] == part for line in lines]
    if file.suffix == ".csv":
        return list(csv.DictReader(file.read_text().splitlines()))
    found = json.loads(file.read_text())
    found = found[part or "rows"] if isinstance(found, dict) else found
    return found["rows"] if isinstance(found, dict) else found


def matching(rows: list[Row], filters: list[str]) -> list[Row]:
    """The rows that all filters leave."""
    for text in filters:
        name, operator, wanted = re.fullmatch(r"(\w+)([=~])(.*)", text, re.S).groups()  # type: ignore[union-attr]
        if not all(name in row for row in rows):
            raise ValueError(f"a row has no {name}")
        rows = [row for row in rows if (wanted == str(row[name]) if operator == "=" else wanted in str(row[name]))]
    return rows


def values_of(rows: list[Row], fields: str) -> list[float | None]:
    """The values of the fields, of one row."""
    if fields.strip() == "#":
        return [len(rows)]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows match")
    found: list[float | None] = []
    for field in fields.split(","):
        name, _, factor = field.strip().partition("*")
        value = rows[0][name]
        if value is None:
            found.append(None)
        elif isinstance(value, list):
            found += [number * float(factor or 1) for number in value]
        elif isinstance(value, str):
            found += [float(number) * float(factor or 1) for number in IN_RESULTS.findall(value)]
        else:
            found.append(value * float(factor or 1))
    return found


def values(source: str) -> list[float | None]:
    """What a comment behind a number stands for."""
    above, *below = re.split(r"\s/\s", source)
    name, *words = shlex.split(above)
    filters = [*itertools.takewhile(re.compile(r"\w+[=~]").match, words)]
    fields = " ".join(words[len(filters) :])
    found = values_of(matching(rows_of(name), filters), fields)
    if not below:
        return found
    others = values_of(matching(rows_of(name), shlex.split(below[0])), fields)
    return [value / other for value, other in zip(found, others, strict=True)]  # type: ignore[operator]


def rewritten(text: str, found: list[float | None]) -> str:
    """The text with its last numbers replaced, in the digits that they have."""
    places = list(NUMBER.finditer(text))[-len(found) :]
    if len(places) != len(found) or None in found:
        raise ValueError(f"{text[-80:]!r} has not the numbers {found}")
    for place, value in reversed([*zip(places, found, strict=True)]):
        digits = len(place[0].partition(".")[2])
        text = f"{text[: place.start()]}{value:.{digits}f}{text[place.end() :]}"
    return text


def table_line(line: str, name: str, filters: list[str], columns: list[str]) -> str:
    """A line of a table, with its numbers replaced."""
    cells = line.strip().strip("|").split("|")
    if len(cells) != len(columns):
        raise ValueError(f"{line} has {len(cells)} columns; they are {columns}")
    keys = [f"{column[1:]}={cell.strip(' *')}" for cell, column in zip(cells, columns, strict=True) if column[0] == "="]
    rows = matching(rows_of(name), [*filters, *keys])
    for k, column in enumerate(columns):
        if column != "_" and column[0] != "=":
            found = values_of(rows, column)
            if found[0] is not None:
                cells[k] = rewritten(cells[k], found)
            elif cells[k].strip() != "-":
                raise ValueError(f"{cells[k]} in {line} is none of the results")
    return f"|{'|'.join(cells)}|"


def renewed(text: str) -> str:
    """The text of a page with the numbers of the results."""
    return "".join(part if k % 2 else "".join(_renewed(part)) for k, part in enumerate(FENCED.split(text)))


def _renewed(text: str) -> Iterator[str]:
    done = 0
    for comment in COMMENT.finditer(text):
        try:
            if " | " not in comment[1]:
                yield rewritten(text[done : comment.start()], values(comment[1])) + comment[0]
                done = comment.end()
                continue
            source, *columns = comment[1].split(" | ")
            columns = [column.strip(' "\n') for column in columns]
            name, *filters = shlex.split(source)
            table = re.compile(r"\s*(?:^\|.*\n)+", re.M).match(text, comment.end())
            if table is None:
                raise ValueError("no table follows")
            above, header, rule, *lines = re.split(r"\n(?=\|)", table[0].rstrip("\n"))
            yield text[done : comment.end()] + "\n".join([above, header, rule])
            yield "".join("\n" + table_line(line, name, filters, columns) for line in lines) + "\n"
            done = table.end()
        except (KeyError, ValueError) as error:
            raise ValueError(f"{comment[0]}: {error}") from None
    yield text[done:]


def main(pages: list[str]) -> None:
    """Write the numbers of the results into pages."""
    for page in map(Path, pages):
        page.write_text(renewed(page.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
