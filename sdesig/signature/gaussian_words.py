"""Iterated integrals with one noise letter among zeros: jointly Gaussian, with a covariance in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdesig._checks import check_step
from sdesig.signature.words import Word


def gaussian_word_covariance(words: Sequence[Word], h: float | Tensor) -> Tensor:
    """Covariance matrix of iterated integrals with exactly one noise letter.

    For the words (0^a, i, 0^b) and (0^c, i, 0^e): h^{a+b+c+e+1} B(a+c+1, b+e+1) / (a! b! c! e!), B the beta function;
    zero for different noise letters.

    Args:
        words: n words, each with exactly one letter >= 1.
        h: step length, any shape.

    Returns:
        (*h.shape, n, n), differentiable in h.

    Raises:
        ValueError: a word that is not Gaussian, or a bad h.
    """
    h = check_step("h", h)
    places = [_noise_place(word) for word in words]

    def entry(first: tuple[int, int, int], second: tuple[int, int, int]) -> Tensor:
        (i, a, b), (j, c, e) = first, second
        if i != j:
            return torch.zeros_like(h)
        beta = math.factorial(a + c) * math.factorial(b + e) / math.factorial(a + b + c + e + 1)
        scale = math.factorial(a) * math.factorial(b) * math.factorial(c) * math.factorial(e)
        return h ** (a + b + c + e + 1) * (beta / scale)

    if not places:
        raise ValueError("words must not be empty")
    return torch.stack([torch.stack([entry(v, w) for w in places], dim=-1) for v in places], dim=-2)


def _noise_place(word: Word) -> tuple[int, int, int]:
    """(i, a, b) for the word (0^a, i, 0^b)."""
    noise = [k for k, letter in enumerate(word) if letter != 0]
    if len(noise) != 1 or min(word) < 0:
        raise ValueError(f"words must each have exactly one noise letter (>= 1) among zeros; got {word!r}")
    return word[noise[0]], noise[0], len(word) - 1 - noise[0]
