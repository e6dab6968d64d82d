"""A copy of a path, shallow, deep or through a pickle, is that path, whatever has been asked of it."""

import copy
import pickle

import pytest
import torch

from sdesig.brownian import BrownianPath


def through_pickle(path):
    return pickle.loads(pickle.dumps(path))


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, through_pickle])
@pytest.mark.parametrize("options", [{"seeds": [3, 8]}, {"seeds": [3, 8], "area": True}, {}, {"area": True}], ids=str)
def test_copies(make, options):
    if "seeds" not in options:
        options = {"generator": torch.Generator().manual_seed(0), **options}
    path = BrownianPath(0.0, 1.0, (2, 3), cells=2**6, **options)
    path(0.0, 0.5)
    path.prefetch([0.0, 0.25, 1.0])
    other = make(path)
    for s, t in ((0.25, 0.5), (0.0, 0.25), (0.75, 1.0)):
        one, two = path.partial_signature(s, t), other.partial_signature(s, t)
        assert torch.equal(one.coefficients, two.coefficients)
        assert (one.levy_area is None) == (not path.area)
        assert one.levy_area is None or torch.equal(one.levy_area, two.levy_area)
    assert torch.equal(path.initial_noise(), other.initial_noise())


def test_a_copy_of_a_seeded_path_holds_no_answers():
    """Other threads may be changing what the path keeps for speed."""
    path = BrownianPath(0.0, 1.0, (2, 3), cells=2**6, area=True, seeds=[3, 8])
    before = pickle.dumps(path)
    path(0.0, 0.5, return_A=True)
    assert pickle.dumps(path) == before
