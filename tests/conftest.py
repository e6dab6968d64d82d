"""Shared set-up: one thread per worker, and hypothesis profiles without wall-clock deadlines and with fixed seeds."""

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("sdesig", deadline=None, derandomize=True, max_examples=50, print_blob=True)
hypothesis.settings.load_profile("sdesig")
