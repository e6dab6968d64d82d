"""How parts are run: each within its time, each with a file of its own as soon as it is done."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdesig.evaluation import markdown_table, read_json, replacing, write_json

DONE, PARTIAL, SKIPPED, FAILED, LATE = "done", "partial", "skipped", "failed", "out of time"
COLUMNS = {"part": "part", "what": "what", "measured": "measured", "target": "target", "reached": "reached"}
Line = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all parts are told.

    Attributes:
        device: "cuda", or "cpu" to see that everything runs.
        tiny: whether sizes are those of a test.
        runs: folder for trainings, which go on when they are run again.
        data: CIFAR-10 as `load_images` reads it, or None.
        deadline: time.monotonic() at which the part is to be done.
    """

    device: str
    tiny: bool
    runs: Path
    data: str | None
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    def synchronized(self, run: Callable[[], object]) -> Callable[[], None]:
        """A call that ends when the device has done its work."""

        def call() -> None:
            run()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return call


class Skipped(Exception):
    """A part that cannot be done here, and why."""


class Partial(Exception):
    """A part that goes on when it is run again, with the lines that there are."""

    def __init__(self, lines: list[Line]) -> None:
        super().__init__("it goes on when it is run again")
        self.lines = lines


class OutOfTime(Exception):
    """A part was interrupted at its deadline."""


def line(what: str, value: float, unit: str = "", *, most: float | None = None, least: float | None = None) -> Line:
    """What was measured, beside its target if there is one."""
    target = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else ""
    reached = value <= most if most is not None else value >= least if least is not None else None
    return {"what": what, "value": value, "unit": unit, "target": target, "reached": reached}


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Interrupt, as Ctrl-C does, what takes longer, and raise OutOfTime in its place."""
    late, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def stop() -> None:
        late.set()
        signal.pthread_kill(main, signal.SIGINT)  # which also wakes a call that waits

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not late.is_set():
            raise
        raise OutOfTime(str(interrupt) or f"interrupted after {seconds:.0f} s") from None
    finally:
        timer.cancel()


def run_part(name: str, part: Callable[[Setting], list[Line]], setting: Setting, out: Path) -> str:
    """Run a part and write NAME.json; the status, which is in it too."""
    started, lines, error = time.monotonic(), [], ""
    try:
        with limited(setting.seconds_left):
            lines = part(setting)
        status = DONE
    except Skipped as reason:
        status, error = SKIPPED, str(reason)
    except Partial as reason:
        status, error, lines = PARTIAL, str(reason), reason.lines
    except OutOfTime as reason:
        status, error = LATE, str(reason)
    except Exception:  # the other parts go on
        status, error = FAILED, traceback.format_exc()[-4000:]
    seconds = round(time.monotonic() - started, 1)
    written = {"status": status, "seconds": seconds, "machine": machine(setting.device), "error": error, "lines": lines}
    write_json(out / f"{name}.json", written)
    return status


def is_done(name: str, out: Path) -> bool:
    """Whether the file of a part says that nothing is left of it."""
    file = out / f"{name}.json"
    return file.exists() and read_json(file)["status"] == DONE


def machine(device: str) -> str:
    """The device and the version of torch."""
    return f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}"


def write_summary(names: Sequence[str], out: Path) -> str:
    """Write and return summary.md, from the files of the parts."""
    rows: list[dict[str, str]] = []
    machines: dict[str, None] = {}
    for name in names:
        file = out / f"{name}.json"
        part: dict[str, Any] = {"status": "not run", "error": "", "lines": []}
        part |= read_json(file) if file.exists() else {}
        machines |= {part["machine"]: None} if "machine" in part else {}
        rows += [{"part": name, **_cells(found)} for found in part["lines"]]
        if part["status"] != DONE:
            reason = part["error"].strip().rpartition("\n")[2]
            rows.append({"part": name, "what": f"{part['status']}{': ' * bool(reason)}{reason}"})
    missed = sum(row.get("reached") == "no" for row in rows)
    text = (
        f"# On a GPU\n\nWritten by `make gpu` from the files beside it, on {'; '.join(machines) or 'nothing yet'}. "
        f"{missed} targets are missed.\n\n{markdown_table(rows, COLUMNS)}"
    )
    with replacing(out / "summary.md") as path:
        path.write_text(text, encoding="utf-8")
    return text


def _cells(found: Mapping[str, Any]) -> dict[str, str]:
    reached = {None: "", True: "yes", False: "no"}[found["reached"]]
    measured = f"{found['value']:.3g} {found['unit']}".strip()
    return {"what": found["what"], "measured": measured, "target": found["target"], "reached": reached}
