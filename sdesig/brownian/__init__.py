"""Brownian paths that hand out consistent partial signatures."""

from sdesig.brownian.clock import Clock, SNRClock, UniformClock
from sdesig.brownian.path import BrownianPath

__all__ = ["BrownianPath", "Clock", "SNRClock", "UniformClock"]
