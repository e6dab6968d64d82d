"""What a user types to install what is missing; from the repository, as there is no release on an index yet."""

from __future__ import annotations

REPOSITORY = "https://github.com/sdesig/sdesig"


def install_command(extra: str) -> str:
    """The command that installs the package with an optional extra."""
    return f"pip install 'sdesig[{extra}] @ git+{REPOSITORY}'"
