"""Brownian paths that hand out consistent partial signatures."""

from sdesig.brownian.clock import Clock, UniformClock
from sdesig.brownian.path import BrownianPath

__all__ = ["BrownianPath", "Clock", "UniformClock"]
