"""Candidate i as a pure function of space, seed and i."""

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search.census import census
from search.errors import SpaceError, Stopped
from search.layer_string import format_architecture
from search.samplers import CensusSampler, RejectionSampler
from search.shapes import check
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


# ------------------------------------------------------------------ the census

SMALL = replace(CLASSIC, max_layers=4)


def census_of(space: SearchSpace, seed: int, **more: Any) -> list[str]:
    sampler = CensusSampler(space, seed, **more)
    return [format_architecture(a) for a in sampler.draw(0, sampler.size)]


def by_brute_force(low: int, high: int) -> list[str]:
    strings = (s for n in range(low, high + 1) for s in itertools.permutations(CLASSIC.layers, n))
    return [format_architecture(string) for string in strings if check(string, CLASSIC.rules).valid]


def test_the_census_is_every_valid_string_once() -> None:
    """Of a whole small space, against brute force."""
    assert sorted(census_of(SMALL, 0)) == sorted(by_brute_force(2, 4))


def test_the_census_of_some_lengths() -> None:
    """Only these, each once, also in the middle of a space."""
    assert sorted(census_of(CLASSIC, 5, lengths=(3, 4))) == sorted(by_brute_force(3, 4))
    assert sorted(census_of(CLASSIC, 5, lengths=(2, 2))) == sorted(by_brute_force(2, 2))


def test_seeds_order_the_census_differently() -> None:
    """The same strings, shuffled."""
    one, other = census_of(SMALL, 0), census_of(SMALL, 1)
    assert sorted(one) == sorted(other)
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 20
    assert one != sorted(one)


def test_any_part_of_the_census_is_drawn_alone() -> None:
    """So coordinators share nothing but which indices are drawn."""
    sampler = CensusSampler(CLASSIC, 9)
    whole = sampler.draw(10**8, 10**8 + 200)
    assert whole == [sampler.draw(i, i + 1)[0] for i in range(10**8, 10**8 + 200)]
    assert sampler.draw(7, 7) == []


def test_the_census_is_uniform_over_the_valid_strings() -> None:
    """Chi-square of the lengths, and of the first layers, of 200,000 draws against the exact counts."""
    positions = CensusSampler(CLASSIC, 4).positions(0, DRAWS)
    counts = census(CLASSIC)
    lengths = np.bincount((positions < 14).sum(axis=1), minlength=11)[2:]
    expected = np.array([count.valid for count in counts.by_length]) * DRAWS / counts.size
    assert ((lengths - expected) ** 2 / expected)[2:].sum() < 7 + 5 * 14**0.5
    every = counts.unrank(np.arange(0, counts.size, 101))
    share = np.bincount(every[:, 0], minlength=14) / len(every)
    firsts = np.bincount(positions[:, 0], minlength=14)
    large = share > 0
    assert not firsts[~large].any()
    chi_square = ((firsts - share * DRAWS) ** 2)[large] / (share * DRAWS)[large]
    assert chi_square.sum() < 3 * large.sum() + 5 * (2 * large.sum()) ** 0.5


def test_beyond_the_end_of_the_census() -> None:
    """Nothing is drawn a second time instead."""
    sampler = CensusSampler(SMALL, 0)
    assert len(sampler.draw(sampler.size - 1, sampler.size)) == 1
    with pytest.raises(
        Stopped, match="has 12,237 architectures, and index 12237 is to be drawn; draw up to index 12236"
    ):
        sampler.draw(sampler.size - 1, sampler.size + 1)


@pytest.mark.parametrize("lengths", [(1, 3), (2, 11), (11, 12), (4, 3)])
def test_lengths_that_a_space_does_not_have(lengths: tuple[int, int]) -> None:
    """They are refused with those that it has."""
    with pytest.raises(SpaceError, match="space classic has strings of 2 to 10 layers"):
        _ = CensusSampler(CLASSIC, 0, lengths).size


CENSUS_GOLDEN = {
    (0, None): [[0, 12, 10, 5, 7, 1, 11, 6], [12, 1, 5, 2, 6, 3, 9, 13, 8, 7], [0, 4, 1, 6, 3, 12, 8, 7, 11]],
    (7, (2, 3)): [[1, 13, 3], [9, 13, 10], [11, 2, 10]],
}


def test_golden_vectors_of_the_census() -> None:
    """What version 1 draws, it draws for ever; a change needs a new version."""
    assert CensusSampler.version == 1
    found = {
        (seed, lengths): CensusSampler(CLASSIC, seed, lengths).positions(0, 3).tolist()
        for seed, lengths in ((0, None), (7, (2, 3)))
    }
    assert {key: [[p for p in row if p < 14] for row in rows] for key, rows in found.items()} == CENSUS_GOLDEN
