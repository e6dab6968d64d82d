"""`python -m validation` is `sdesig validate`."""

import sys

from sdesig.commands.main import main

if __name__ == "__main__":
    main(["validate", *sys.argv[1:]])
