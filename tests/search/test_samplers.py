"""Candidate i as a pure function of space, seed and i."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from search.layer_string import format_architecture
from search.samplers import RejectionSampler
from search.space import CLASSIC, SearchSpace

REPLACING = replace(CLASSIC, replacement=True)
DRAWS = 200_000


def drawn(space: SearchSpace, seed: int, start: int, stop: int) -> list[str]:
    return [format_architecture(a) for a in RejectionSampler(space, seed).draw(start, stop)]


def as_numbers(space: SearchSpace, seed: int, count: int) -> list[list[int]]:
    """Draws as positions in the space's list of layers."""
    position = {layer: i for i, layer in enumerate(space.layers)}
    return [[position[layer] for layer in a] for a in RejectionSampler(space, seed).draw(0, count)]


# ------------------------------------------------------------------ the definition, again

MASK = 2**64 - 1


def philox(counter: int, key: int) -> list[int]:
    """Philox-4x64-10 (Salmon et al., SC'11) of one 256-bit counter: four 64-bit words."""
    c = [counter >> (64 * i) & MASK for i in range(4)]
    k = [key & MASK, key >> 64]
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(high >> 64) ^ c[1] ^ k[0], high & MASK, (low >> 64) ^ c[3] ^ k[1], low & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def by_the_definition(space: SearchSpace, seed: int, index: int) -> list[int]:
    """A draw by the words of the design, in plain Python.

    numpy raises a Philox counter before it uses it, so the stream of ``Philox(counter=i * k)`` begins
    with the block of i * k + 1.
    """
    k = -(-(1 + max(len(space.layers), space.max_layers)) // 8)
    words = [word for block in range(k) for word in philox(index * k + block + 1, seed)]
    halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    length = space.min_layers + (halves[0] * (space.max_layers - space.min_layers + 1) >> 32)
    if space.replacement:
        return [half * len(space.layers) >> 32 for half in halves[1 : 1 + length]]
    keys = halves[1 : 1 + len(space.layers)]
    return sorted(range(len(keys)), key=lambda i: (keys[i], i))[:length]


@pytest.mark.parametrize(
    "space", [CLASSIC, REPLACING, replace(CLASSIC, max_layers=14), replace(REPLACING, max_layers=40)]
)
@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_draws_are_those_of_the_definition(space: SearchSpace, seed: int) -> None:
    """An independent derivation, without numpy, draws the same."""
    for index in (*range(20), 10**6, 2**40 + 1, 2**62):
        (architecture,) = RejectionSampler(space, seed).draw(index, index + 1)
        assert list(architecture) == [space.layers[i] for i in by_the_definition(space, seed, index)]


GOLDEN = {
    (CLASSIC, 0): [
        [0, 4],
        [6, 2, 0, 10, 11, 1, 13, 9, 8, 4],
        [10, 13, 1, 8, 2, 0, 7, 5],
        [7, 5],
        [12, 7, 5, 13, 11, 6, 0, 3, 2, 1],
    ],
    (CLASSIC, 7): [[8, 9, 2], [0, 5, 13, 7, 8], [7, 0], [10, 2, 4, 8, 12, 13, 11], [4, 10, 1, 13, 5, 2]],
    (REPLACING, 0): [
        [0, 8],
        [3, 5, 2, 13, 9, 10, 1, 9, 8, 7],
        [3, 1, 2, 5, 13, 5, 6, 4],
        [9, 11],
        [4, 7, 6, 5, 8, 1, 3, 1, 8, 12],
    ],
}


@pytest.mark.parametrize(("space", "seed"), GOLDEN, ids=["classic-0", "classic-7", "replacing-0"])
def test_golden_vectors(space: SearchSpace, seed: int) -> None:
    """What version 1 draws, it draws for ever; a change needs a new version."""
    assert RejectionSampler.version == 1
    assert as_numbers(space, seed, 5) == GOLDEN[space, seed]


def test_a_batch_is_its_single_draws() -> None:
    """However indices are grouped."""
    whole = drawn(CLASSIC, 3, 1000, 1300)
    assert whole == [drawn(CLASSIC, 3, i, i + 1)[0] for i in range(1000, 1300)]
    assert whole == drawn(CLASSIC, 3, 1000, 1001) + drawn(CLASSIC, 3, 1001, 1300)
    assert drawn(CLASSIC, 3, 5, 5) == []


def test_slots_share_no_word() -> None:
    """Every candidate owns its part of the stream: no word of one stands in another's."""
    halves = RejectionSampler(CLASSIC, 1).halves(0, 5_000)
    words = halves[:, 0::2] | halves[:, 1::2] << np.uint64(32)
    assert halves.shape == (5_000, 16)
    assert len(np.unique(words)) == words.size
    following = RejectionSampler(CLASSIC, 1).halves(5_000, 10_000)
    assert not np.intersect1d(words, following[:, 0::2] | following[:, 1::2] << np.uint64(32)).size


def test_seeds_draw_differently() -> None:
    """Another seed is another search."""
    assert not set(drawn(CLASSIC, 0, 0, 100)) & {s for s in drawn(CLASSIC, 1, 0, 100) if s.count("=") > 4}


# ------------------------------------------------------------------ the classic draw


def assert_uniform(counts: Counter[object], cells: int) -> None:
    """Pearson's chi-square stays within five standard deviations of its mean, cells - 1."""
    expected = counts.total() / cells
    assert len(counts) == cells
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert abs(chi_square - (cells - 1)) < 5 * (2 * (cells - 1)) ** 0.5


@pytest.fixture(scope="module")
def classic() -> list[list[int]]:
    return as_numbers(CLASSIC, 42, DRAWS)


@pytest.fixture(scope="module")
def replacing() -> list[list[int]]:
    return as_numbers(REPLACING, 42, DRAWS)


def test_lengths_are_uniform(classic: list[list[int]]) -> None:
    """2 to 10, each as often."""
    assert_uniform(Counter(map(len, classic)), 9)


def test_layers_are_uniform_at_every_position(classic: list[list[int]]) -> None:
    """Each of the 14, at each of the 10 positions."""
    for position in range(10):
        assert_uniform(Counter(row[position] for row in classic if len(row) > position), 14)


def test_neighbours_are_uniform(classic: list[list[int]]) -> None:
    """Each ordered pair at the first two positions, and a neighbour tells nothing of the length."""
    assert_uniform(Counter((row[0], row[1]) for row in classic), 14 * 13)
    assert_uniform(Counter((row[0], len(row)) for row in classic), 14 * 9)


def test_whole_strings_are_uniform() -> None:
    """Of three layers, two drawn: all six orders, as an ordered sample without replacement has them."""
    space = replace(CLASSIC, layers=CLASSIC.layers[:3], min_layers=2, max_layers=2)
    assert_uniform(Counter(map(tuple, as_numbers(space, 1, 60_000))), 6)


def test_no_layer_stands_twice(classic: list[list[int]]) -> None:
    """Without replacement."""
    assert all(len(set(row)) == len(row) for row in classic)


def test_with_replacement_repeats_are_as_frequent_as_others(replacing: list[list[int]]) -> None:
    """All 14 x 14 pairs, equal ones included."""
    assert_uniform(Counter((row[0], row[1]) for row in replacing), 14 * 14)
    pairs = itertools.chain.from_iterable(itertools.pairwise(row) for row in replacing)
    assert any(a == b for a, b in pairs)
