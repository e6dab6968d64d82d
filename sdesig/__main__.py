"""`python -m sdesig`."""

from sdesig.cli import main

main()
