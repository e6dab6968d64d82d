"""Progress: a bar on a terminal, a line a minute elsewhere. The clock is a list of seconds, no test waits."""

import io
import logging
import subprocess
import sys

import pytest

from sdesig._progress import progress_bar
from sdesig.commands.main import main


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines_of(seconds_per_part, parts=6, **options):
    """What is said of parts that take so long each."""
    now, file = [0.0], io.StringIO()
    for _ in progress_bar(range(parts), name="work", unit="part", file=file, clock=lambda: now[0], **options):
        now[0] += seconds_per_part
    return file.getvalue().splitlines()


def test_short_work_says_nothing():
    assert lines_of(9.9) == []


def test_a_line_a_minute_and_one_at_the_end():
    assert lines_of(20.0) == [
        "work: 3 of 6 parts, 01:00 so far, 01:00 left",
        "work: 6 of 6 parts, 02:00 so far",
    ]


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, 0), (0.7, 1 + 1), (7.0, 11 + 1), (59.0, 49 + 1), (600.0, 100)])
def test_lines_are_a_minute_apart_at_least(seconds, expected):
    """Of 100 parts; one more at the end."""
    assert len(lines_of(seconds, parts=100)) == expected


def test_what_was_done_before_does_not_count_for_the_time_left():
    assert lines_of(60.0, parts=2, initial=8)[0] == "work: 9 of 10 parts, 01:00 so far, 01:00 left"


def test_notes_end_the_line():
    now, file = [0.0], io.StringIO()
    with progress_bar(name="samples", unit="seed", total=30, file=file, clock=lambda: now[0]) as bar:
        bar.set_postfix_str("loss 0.5", False)
        now[0] = 90.0
        bar.update(10)
    assert file.getvalue() == "samples: 10 of 30 seeds, 01:30 so far, 03:00 left, loss 0.5\n"


def test_a_terminal_has_a_bar():
    file = Terminal()
    assert list(progress_bar(range(3), name="work", unit="part", file=file)) == [0, 1, 2]
    assert "3/3" in file.getvalue()
    assert "\r" in file.getvalue()


@pytest.mark.parametrize("file", [Terminal(), io.StringIO()])
def test_hidden_and_empty_work_says_nothing(file):
    assert list(progress_bar(range(3), name="work", unit="part", shown=False, file=file)) == [0, 1, 2]
    assert list(progress_bar([], name="work", unit="part", file=file)) == []
    assert file.getvalue() == ""


# --- log -------------------------------------------------------------------------------------------------------------

NEWS = "import logging, sdesig; logging.getLogger('sdesig._compiled').info('news')"


@pytest.mark.parametrize(
    ("before", "said"),
    [("", ""), ("import logging; logging.basicConfig(level='INFO'); ", "INFO:sdesig._compiled:news")],
)
def test_applications_decide_what_is_logged(before, said):
    done = subprocess.run([sys.executable, "-c", before + NEWS], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == said


def test_commands_show_the_log(monkeypatch, capsys):
    log = logging.getLogger("sdesig")
    before = list(log.handlers)
    monkeypatch.setattr("sdesig.commands.main._run", lambda _: log.info("news"))
    main(["floor"])
    assert capsys.readouterr().err == "news\n"
    assert log.handlers == before
