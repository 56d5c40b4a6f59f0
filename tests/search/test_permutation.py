"""A keyed permutation: bijective for every size and key, and as good as random."""

from collections import Counter
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.permutation import Permutation

CLASSIC = 140_708_079
GOLDEN = ([4922843, 127522090, 16639391, 102856336], [65643495, 126245397, 106148526, 91742307])


@given(st.integers(1, 3_000), st.integers(0, 2**63 - 1))
def test_every_value_comes_once(size: int, key: int) -> None:
    """Of any size, under any key."""
    assert np.array_equal(np.sort(Permutation(size, key)(np.arange(size))), np.arange(size))


def test_a_large_part_of_a_large_size_has_no_repeat() -> None:
    """A million of the classic space's ranks."""
    images = Permutation(CLASSIC, 0)(np.arange(1_000_000))
    assert len(np.unique(images)) == 1_000_000
    assert 0 <= images.min() <= images.max() < CLASSIC


def test_the_largest_size() -> None:
    """Nothing overflows on the way."""
    size = 2**62
    images = Permutation(size, 2**63 - 1)(np.array([0, 1, size - 1]))
    assert len(set(images.tolist())) == 3
    assert 0 <= images.min() <= images.max() < size


def test_a_value_is_computed_alone() -> None:
    """However values are grouped, and whatever their order."""
    permutation = Permutation(1_000, 7)
    whole = permutation(np.arange(1_000))
    assert whole.tolist() == [int(permutation(np.array([i]))[0]) for i in range(1_000)]
    assert permutation(np.arange(999, -1, -1)).tolist() == whole[::-1].tolist()


def test_golden_vectors() -> None:
    """What a key gives it gives for ever: searches depend on it."""
    assert Permutation(CLASSIC, 0)(np.arange(4)).tolist() == GOLDEN[0]
    assert Permutation(CLASSIC, 2**63 - 1)(np.arange(4)).tolist() == GOLDEN[1]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_permutation_of_a_few_is_as_likely(size: int) -> None:
    """Chi-square over 200 keys for each of the n! permutations, at 5 standard deviations."""
    cells = factorial(size)
    found = Counter(tuple(Permutation(size, key)(np.arange(size)).tolist()) for key in range(200 * cells))
    chi_square = sum((found[word] - 200) ** 2 / 200 for word in found) + 200 * (cells - len(found))
    assert chi_square < cells - 1 + 5 * (2 * (cells - 1)) ** 0.5


def test_a_prefix_is_uniform() -> None:
    """Of the classic size: in a thousand equal parts, over 200,000 values; and so are differences of neighbours."""
    images = Permutation(CLASSIC, 3)(np.arange(200_000))
    for values in (images, (images[1:] - images[:-1]) % CLASSIC):
        counts = np.bincount(values * 1_000 // CLASSIC, minlength=1_000)
        expected = len(values) / 1_000
        assert abs(((counts - expected) ** 2 / expected).sum() - 999) < 5 * (2 * 999) ** 0.5


def test_keys_are_independent() -> None:
    """Two keys agree as often as chance: one in a thousand."""
    one, other = (Permutation(1_000, key)(np.arange(1_000)) for key in (0, 1))
    assert (one == other).sum() < 10
