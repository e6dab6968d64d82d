"""Speed and agreement of the foundations against other packages, measured in one run: `make bench`."""
