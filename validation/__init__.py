"""Studies that hold the package against theory; `make validate` runs them all."""
