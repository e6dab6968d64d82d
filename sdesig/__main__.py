"""`python -m sdesig`."""

from sdesig.commands.main import main

main()
