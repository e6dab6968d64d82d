"""Words: which iterated integrals a scheme needs, the law of the Gaussian ones, products, and Ito <-> Stratonovich.

A word is a tuple of letters from {0, 1, ..., d}: 0 is time, i >= 1 is the Brownian motion W^i. The first letter is
the innermost integrator: over a step [s, s + h], with dW^0 = du,

    I_(i,j) = int_s^{s+h} int_s^v dW^i_u dW^j_v.

I_w is the Ito integral, J_w the Stratonovich one; the empty word is the constant 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from sdesig._checks import NOISE_STRUCTURES, check_choice, check_integer, check_real, check_step

Word = tuple[int, ...]
"""Letters of an iterated integral, the innermost first: 0 is time, 1, 2, ... are the noises."""


def check_word(name: str, word: object) -> Word:
    """Return `word`; raise TypeError unless it is a tuple of integers, ValueError if a letter is negative."""
    if not isinstance(word, tuple):
        raise TypeError(f"{name} must be a tuple of letters; got {word!r}")
    return tuple(check_integer(f"{name}[{k}]", letter, 0) for k, letter in enumerate(word))


def words_for_scheme(
    *, strong: float | None = None, weak: int | None = None, noise: str = "general", dim: int = 1
) -> tuple[Word, ...]:
    """Words whose iterated integrals the Ito-Taylor scheme of a given order needs, shortest first, then sorted.

    With l(w) the length and n(w) the number of zeros of w, the scheme of

        strong order g sums over   l(w) + n(w) <= 2g   or   l(w) = n(w) = g + 1/2,
        weak order b sums over     l(w) <= b,

    each integral I_w multiplied by L^{j_1} ... L^{j_{k-1}} b^{j_k}, w = (j_1, ..., j_k), where b^0 is the drift a,
    L^0 = d/dt + a . grad + 1/2 sum_i b^i b^i : Hessian and L^i = b^i . grad. Words are left out where the structure of
    the noise makes this coefficient vanish for every drift:

    - "additive", b^i(t): L^i kills b^j and all its time derivatives, so (..., i) needs zeros before i;
    - "diagonal", b^i(t, x_i) in the direction of x_i: L^j, j >= 1, kills b^i unless j = i, until an L^0 brings in the
      drift, which depends on every coordinate;
    - "commutative", L^i b^j = L^j b^i: nothing vanishes, but (i, j) and (j, i), i != j, enter only through
      I_(i,j) + I_(j,i) = W^i W^j and are left out. Orders >= 1.5 do without the mixed words of three letters only
      under commutativity of the second kind, which is not assumed: those words are kept;
    - "scalar" (one Brownian motion) and "general": every word of the hierarchical set.

    Source: Kloeden & Platen, Numerical Solution of SDEs (1992), sections 10.3-10.6 (strong), 14.5 (weak).

    Args:
        strong: a positive multiple of 1/2.
        weak: 1, 2 or 3. Exactly one of `strong` and `weak` is given.
        noise: one of "additive", "scalar", "diagonal", "commutative", "general".
        dim: the number of Brownian motions d >= 1; 1 for scalar noise.

    Raises:
        TypeError, ValueError: both or neither order given, or an argument outside what is allowed above.
    """
    if (strong is None) == (weak is None):
        raise ValueError(f"exactly one of strong and weak must be given; got strong={strong!r}, weak={weak!r}")
    if strong is not None:
        strong = check_real("strong", strong, minimum=0.5)
        if not (2 * strong).is_integer():
            raise ValueError(f"strong must be a multiple of 1/2; got {strong}")
    if weak is not None:
        weak = check_integer("weak", weak, 1, 3)
    check_choice("noise", noise, NOISE_STRUCTURES)
    dim = check_integer("dim", dim, 1)
    if noise == "scalar" and dim != 1:
        raise ValueError(f"dim must be 1 for scalar noise; got {dim}")

    def in_hierarchical_set(word: Word) -> bool:
        length, zeros = len(word), word.count(0)
        if weak is not None:
            return length <= weak
        assert strong is not None
        return length + zeros <= 2 * strong or length == zeros == strong + 0.5

    # Hierarchical sets are closed under dropping the first letter, and L^j 0 = 0: prepending letters finds every word.
    words: list[Word] = []
    level: list[Word] = [()]
    while level:
        longer = [(letter, *word) for word in level for letter in _letters_before(word, noise, dim)]
        level = [word for word in longer if in_hierarchical_set(word)]
        words += level
    if noise == "commutative":
        words = [word for word in words if len(word) != 2 or 0 in word or word[0] == word[1]]
    return tuple(sorted(words, key=lambda word: (len(word), word)))


def _letters_before(word: Word, noise: str, dim: int) -> Iterable[int]:
    """Letters j for which L^j does not kill the (living) coefficient of `word`."""
    drift_enters = not word or word[-1] == 0 or (noise == "diagonal" and 0 in word)
    if noise not in ("additive", "diagonal") or drift_enters:
        return range(dim + 1)
    return (0,) if noise == "additive" else (0, word[-1])


def is_gaussian(word: Word) -> bool:
    """Whether I_word is Gaussian: exactly one letter is not 0.

    Such a word of m letters is linear in the first m Legendre coefficients of its Brownian motion.
    """
    return sum(letter != 0 for letter in check_word("word", word)) == 1


def legendre_depth(words: Iterable[Word]) -> int:
    """Number of Legendre coefficients per Brownian motion that determine every Gaussian word in `words` (0 if none).

    The first of them, the increment, also determines the words (i, ..., i), which are Hermite polynomials in W^i.
    """
    return max((len(word) for word in words if is_gaussian(word)), default=0)


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


def needs_levy_area(words: Iterable[Word]) -> bool:
    """Whether some word has two different noise letters, so that increments and time integrals cannot suffice.

    The Levy area suffices for the words (i, j); longer words in several letters need the signature of a finer path.
    """
    return any(len(set(check_word("word", word)) - {0}) > 1 for word in words)


def shuffle(u: Word, v: Word) -> dict[Word, int]:
    """Shuffle product: J_u J_v = sum_w shuffle(u, v)[w] J_w.

    With the last letters split off, (ua) x (vb) = (u x vb)a + (ua x v)b (Ree, Ann. Math. 68, 1958).
    """
    return dict(_shuffle(check_word("u", u), check_word("v", v), contract=False))


def quasi_shuffle(u: Word, v: Word) -> dict[Word, int]:
    """Quasi-shuffle product: I_u I_v = sum_w quasi_shuffle(u, v)[w] I_w.

    By Ito's product rule, with dW^i dW^j = delta_ij dt for i, j >= 1 and no other contraction,
    (ua) * (vb) = (u * vb)a + (ua * v)b + [a = b >= 1] (u * v)0 (Kloeden & Platen, 1992, section 5.2).
    """
    return dict(_shuffle(check_word("u", u), check_word("v", v), contract=True))


def _shuffle(u: Word, v: Word, contract: bool) -> Counter[Word]:
    if not u or not v:
        return Counter({u + v: 1})
    terms = [(u[:-1], v, u[-1]), (u, v[:-1], v[-1])]
    if contract and u[-1] == v[-1] != 0:
        terms.append((u[:-1], v[:-1], 0))
    product: Counter[Word] = Counter()
    for left, right, last in terms:
        for word, count in _shuffle(left, right, contract).items():
            product[(*word, last)] += count
    return product


def stratonovich_to_ito(word: Word) -> dict[Word, Fraction]:
    """Coefficients c of J_word = sum_w c[w] I_w.

    The sum runs over all ways to merge disjoint adjacent pairs (i, i), i >= 1, of the word into 0, with a factor 1/2
    for each merger: J_(1,1) = I_(1,1) + I_(0) / 2 (Kloeden & Platen, 1992, section 5.2).
    """
    return _merge_pairs(check_word("word", word), Fraction(1, 2))


def ito_to_stratonovich(word: Word) -> dict[Word, Fraction]:
    """Coefficients c of I_word = sum_w c[w] J_w: as `stratonovich_to_ito`, with a factor -1/2 for each merger."""
    return _merge_pairs(check_word("word", word), Fraction(-1, 2))


def _merge_pairs(word: Word, weight: Fraction) -> dict[Word, Fraction]:
    if not word:
        return {(): Fraction(1)}
    merged: dict[Word, Fraction] = {}
    terms = [(word[:-1], word[-1], Fraction(1))]
    if len(word) > 1 and word[-2] == word[-1] != 0:
        terms.append((word[:-2], 0, weight))
    for rest, last, factor in terms:
        for shorter, coefficient in _merge_pairs(rest, weight).items():
            key = (*shorter, last)
            merged[key] = merged.get(key, Fraction(0)) + factor * coefficient
    return merged
