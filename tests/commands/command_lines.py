"""Command lines of tests, in which options that only files have may stand as flags too."""

import json
import tempfile
from pathlib import Path

from sdesig.commands import main as cli
from sdesig.commands.main import FILE_ONLY

SWITCHES = ("compile",)


def spelled(arguments, folder):
    """The arguments, with the options that have no flag moved to a --config file in a folder."""
    flags, found, name = [], {}, None
    for word in map(str, arguments):
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            name = name if name in FILE_ONLY else None
            if name is not None:
                found[name] = []
        if name is None:
            flags.append(word)
        elif not word.startswith("--"):
            found[name].append(word)
    if not found:
        return flags
    assert "--config" not in flags
    values = {key: value if len(value) > 1 else value[0] for key, value in found.items() if key not in SWITCHES}
    file = Path(folder) / "options.json"
    file.write_text(json.dumps({**values, **{key: True for key in SWITCHES if key in found}}))
    return [*flags, "--config", str(file)]


def main(arguments):
    """Run a command."""
    with tempfile.TemporaryDirectory() as folder:
        cli.main(spelled(arguments, folder))
