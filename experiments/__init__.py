"""Experiments with sdesig: scripts that measure, not part of the package."""
