"""A keyed permutation of 0 ... size - 1, each value computed alone.

A Feistel network over two numbers, one below a and one below b, with a b just above the size; what falls
outside is sent through again until it falls inside (Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002: a generalised Feistel cipher, and cycle walking). So a search draws without
repeats and without a memory of what it has drawn. It scatters well; it keeps no secrets.
"""

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np
import numpy.typing as npt

ROUNDS = 16  # with 8, the 720 permutations of six values are plainly not equally likely; with 16 they are
STREAM = 1 << 64  # high half of the Philox key: another stream than that of the rejection sampler

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Permutation:
    """A permutation of the integers from 0 to ``size - 1``, another one for each key."""

    size: int  # 1 to 2^62
    key: int  # 0 to 2^63 - 1

    def __call__(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The images of ``values``, any shape, each from 0 to ``size - 1``."""
        found = self._once(values.astype(np.uint64))
        outside = found >= self.size
        while outside.any():
            found[outside] = self._once(found[outside])
            outside = found >= self.size
        return found.astype(np.int64)

    @cached_property
    def _round_keys(self) -> Words:
        return np.random.Philox(key=STREAM | self.key).random_raw(ROUNDS)

    def _once(self, values: Words) -> Words:
        """A permutation of 0 ... a b - 1, which is less than 2 sqrt(size) more than the size."""
        a = isqrt(self.size - 1) + 1
        b = -(-self.size // a)
        left, right = np.divmod(values, np.uint64(b))
        for number, key in enumerate(self._round_keys):
            if number % 2:
                right = (right + _mixed(left + key) % np.uint64(b)) % np.uint64(b)
            else:
                left = (left + _mixed(right + key) % np.uint64(a)) % np.uint64(a)
        return left * np.uint64(b) + right


def _mixed(words: Words) -> Words:
    """Every bit of the result depends on every bit of a word: the finaliser of SplitMix64.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; constants of
    Stafford's variant 13.
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
