"""Students whose networks do something: at its start a student's correction is zero."""

import torch


def shaken(module, scale=0.1, seed=0):
    """The module, noise added to all that can be trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(scale * torch.randn(p.shape, generator=generator))
    return module
