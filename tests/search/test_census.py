"""Exact counts, ranks, and the order of the census, against brute force."""

import itertools
import tracemalloc
from dataclasses import replace
from functools import cache
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import census as module
from search.automaton import architectures, compiled, compiled_or_depth
from search.candidates import RejectionReason
from search.census import census, of_lengths
from search.errors import SpaceError, Uncountable
from search.layer_string import parse
from search.layers import Architecture, Shape
from search.samplers import CensusSampler
from search.shapes import MOST_ELEMENTS, check
from search.space import CLASSIC, SearchSpace

LAYERS = [
    "conv=channel_factor:2,kernel_size:3,stride:1,padding:0",
    "conv=channel_factor:0.4,kernel_size:3,stride:1,padding:1",
    "conv=channel_factor:3,kernel_size:5,stride:2,padding:1", "batchnorm=eps:0.001", "dropout=p:0.5", "dropout=p:0.1",
    "maxpool=kernel_size:2,stride:2,padding:0", "avgpool=kernel_size:2,stride:2,padding:0",
    "avgpool=kernel_size:2,stride:1,padding:2", "maxpool=kernel_size:4,stride:4,padding:0",
]  # fmt: skip


def space_of(*layers: str, **changes: object) -> SearchSpace:
    chosen = tuple(parse(text)[0] for text in layers)
    return replace(CLASSIC, **{"layers": chosen, "min_layers": 1, "max_layers": len(chosen), **changes})  # type: ignore[arg-type]


@cache
def strings_of(space: SearchSpace) -> list[Architecture]:
    """All strings of a space, in the order of the census: by length, then as in a dictionary."""
    ways = itertools.product if space.replacement else itertools.permutations
    lengths = range(space.min_layers, space.max_layers + 1)
    return [
        tuple(space.layers[i] for i in word)
        for n in lengths
        for word in (
            ways(range(len(space.layers)), repeat=n) if space.replacement else ways(range(len(space.layers)), n)
        )
    ]


@cache
def valid_of(space: SearchSpace) -> list[Architecture]:
    return [string for string in strings_of(space) if check(string, space.rules).valid]


def unranked(space: SearchSpace, ranks: object) -> list[Architecture]:
    return architectures(space, census(space).unrank(np.asarray(ranks, np.int64)))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Small spaces of any kinds of layers, of up to some 4,000 strings."""
    layers = draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=8, unique=True))
    replacement = draw(st.booleans())
    largest = min(len(layers), 4) if not replacement else {1: 6, 2: 6, 3: 5, 4: 5}.get(len(layers), 3)
    most = draw(st.integers(1, largest))
    return space_of(
        *layers,
        input_shape=Shape(draw(st.integers(1, 3)), draw(st.integers(2, 20)), draw(st.integers(2, 20))),
        min_layers=draw(st.integers(1, most)),
        max_layers=most,
        replacement=replacement,
        channels_within_side=draw(st.booleans()),
    )


@settings(max_examples=80, deadline=None)
@given(spaces())
def test_counts_equal_brute_force(space: SearchSpace) -> None:
    """By length and by reason, of any small space."""
    for count in census(space).by_length:
        verdicts = [check(s, space.rules) for s in strings_of(space) if len(s) == count.layers]
        reasons = [verdict.reason for verdict in verdicts if verdict.reason]
        assert (count.drawable, count.valid) == (len(verdicts), len(verdicts) - len(reasons))
        assert count.rejected == {reason: reasons.count(reason) for reason in set(reasons)}


@settings(max_examples=80, deadline=None)
@given(spaces())
def test_the_nth_valid_string_is_that_of_brute_force(space: SearchSpace) -> None:
    """All of them, in order; and the rank of each is n."""
    valid = valid_of(space)
    found = census(space)
    assert found.size == len(valid)
    assert unranked(space, np.arange(len(valid))) == valid
    automaton = compiled(space)
    assert automaton is not None
    assert found.rank(automaton.positions(valid)).tolist() == list(range(len(valid)))


def test_the_classic_space() -> None:
    """The counts of the design."""
    found = census(CLASSIC)
    assert sum(count.drawable for count in found.by_length) == 4_499_721_590
    assert found.size == 140_708_079
    assert [count.valid for count in found.by_length][:5] == [118, 1_202, 10_917, 84_200, 535_970]


def test_some_lengths_are_counted_and_numbered_alone() -> None:
    """As the whole space counts and numbers them, but from 0."""
    whole, some = census(CLASSIC), census(of_lengths(CLASSIC, 3, 4))
    assert some.by_length == whole.by_length[1:3]
    ranks = np.arange(0, 1_202 + 10_917, 7)
    assert some.unrank(ranks).tolist() == whole.unrank(118 + ranks)[:, :4].tolist()


def test_classic_counts_of_up_to_five_layers_equal_brute_force() -> None:
    """266,630 strings, each checked by itself."""
    space = replace(CLASSIC, max_layers=5)
    automaton = compiled(space)
    assert automaton is not None
    layers = len(space.layers)
    for count in census(space).by_length:
        words = np.array(list(itertools.permutations(range(layers), count.layers)))
        batch = np.full((len(words), 5), layers)
        batch[:, : count.layers] = words
        reasons = automaton.check(batch).reasons
        expected = {reason: int((reasons == i).sum()) for i, reason in enumerate(RejectionReason)}
        assert count.drawable == len(words)
        assert count.rejected == {reason: number for reason, number in expected.items() if number}


def test_classic_ranks_there_and_back() -> None:
    """First, last, the borders of lengths, and 20,000 at random."""
    found = census(CLASSIC)
    ends = np.cumsum([count.valid for count in found.by_length])
    ranks = np.concatenate(([0], ends[:-1], ends - 1, np.random.default_rng(0).integers(0, found.size, 20_000)))
    batch = found.unrank(ranks)
    assert found.rank(batch).tolist() == ranks.tolist()
    automaton = compiled(CLASSIC)
    assert automaton is not None
    assert automaton.check(batch).valid.all()
    assert found.unrank(ranks[:1]).tolist() == [[0, 1] + [14] * 8]


@pytest.mark.parametrize("rank", [-1, 140_708_079, 2**62])
def test_a_rank_that_there_is_not(rank: int) -> None:
    """Neither wraps around nor ends in an index error."""
    with pytest.raises(ValueError, match="ranks from 0 to 140,708,078"):
        census(CLASSIC).unrank(np.array([5, rank]))


def test_what_is_not_valid_has_no_rank() -> None:
    """A rejected string, a layer drawn twice, a string that is too short: each is named by its row."""
    found, end = census(CLASSIC), [14] * 8
    good = found.unrank(np.array([3, 77])).tolist()
    for bad in ([3, 3, *end], [0, 0, *end], [0, 14, *end], [15, 0, *end], [0, 14, 1, *end[1:]], [0, -1, *end]):
        with pytest.raises(ValueError, match="row 1 is no valid architecture of space classic"):
            found.rank(np.array([good[0], bad, good[1]]))


def test_nothing_has_no_ranks() -> None:
    """Empty batches stay empty."""
    found = census(CLASSIC)
    assert found.unrank(np.zeros(0, np.int64)).shape == (0, 10)
    assert found.rank(np.zeros((0, 10), np.int64)).shape == (0,)


def test_batches_are_cut_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are looked at once."""
    ranks = np.arange(0, 140_000_000, 1_234_567)
    whole = census(CLASSIC).unrank(ranks)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 5)
    assert census(CLASSIC).unrank(ranks).tolist() == whole.tolist()
    assert census(CLASSIC).rank(whole).tolist() == ranks.tolist()


@pytest.mark.parametrize("budget", ["max_parameters", "max_macs", "max_activation_bytes"])
def test_a_space_with_a_budget_is_refused(budget: str) -> None:
    """Its cells do not know what a string has cost; a wrong number would be worse than none."""
    with pytest.raises(SpaceError, match=f"has {budget}: the census counts shapes, not budgets"):
        census(replace(CLASSIC, **{budget: 10_000}))


def test_a_space_that_can_break_a_ceiling_is_refused() -> None:
    """Every space has ceilings; here the second conv would have 10^10 parameters."""
    wide = [f"conv=channel_factor:{factor},kernel_size:1,stride:1,padding:0" for factor in (99_999, 100_000)]
    one = space_of(*wide, channels_within_side=False, max_layers=1, input_shape=Shape(1, 4, 4))
    assert census(one).size == 2
    with pytest.raises(SpaceError, match="beyond the ceilings of every"):
        census(replace(one, max_layers=2))
    enormous = space_of("conv=channel_factor:1000000000,kernel_size:1,stride:1,padding:0", channels_within_side=False)
    with pytest.raises(SpaceError, match="beyond the ceilings of every"):
        census(replace(enormous, input_shape=Shape(1, 10_000, 10_000)))


def test_a_space_that_keeps_the_ceilings_may_be_refused() -> None:
    """What is compared takes the dear conv twice, which no string does: so the message does not say that one does."""
    convs = [f"conv=channel_factor:1,kernel_size:{k},stride:1,padding:{k // 2}" for k in (1, 31)]
    space = space_of(*convs, channels_within_side=False, input_shape=Shape(1_000, 8, 8))
    assert len(valid_of(space)) == 4
    with pytest.raises(SpaceError, match=r"may hold strings that are beyond the ceilings .* of 2 layers and more"):
        census(space)


def test_a_space_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, before memory is full; the message names the way out."""
    monkeypatch.setattr(module, "MOST_ENTRIES", 10_000)
    with pytest.raises(SpaceError, match=r"too large to be counted.*--sampler rejection"):
        census(replace(CLASSIC, name="large"))


def test_layers_of_a_kind_take_no_memory_of_their_own() -> None:
    """The cells are as many, whether 7 dropouts are among the layers or 900."""
    layers = [f"maxpool=kernel_size:{side},stride:1,padding:0" for side in range(2, 13)]
    peaks = []
    for dropouts in (7, 900):
        free = [f"dropout=p:{i / 1000}" for i in range(1, 1 + dropouts)]
        space = space_of(*layers, *free, max_layers=7, input_shape=Shape(1, 100, 100))
        compiled(space)
        tracemalloc.start()
        census(space)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def test_counts_beyond_64_bits_are_exact() -> None:
    """Of 40 layers from 3 that always fit, with replacement: 3^40; they can be counted, not numbered."""
    layers = ("batchnorm=eps:0.1", "dropout=p:0.5", "dropout=p:0.25")
    found = census(space_of(*layers, replacement=True, min_layers=40, max_layers=41))
    assert [count.valid for count in found.by_length] == [3**40, 3**41]
    with pytest.raises(SpaceError, match="too many to be numbered"):
        found.unrank(np.array([0]))


def test_a_space_of_valid_strings_only_and_one_of_none() -> None:
    """Nothing is rejected; nothing is valid."""
    assert census(space_of("dropout=p:0.5", "batchnorm=eps:0.1")).by_length[1].rejected == {}
    none = census(space_of("maxpool=kernel_size:30,stride:1,padding:0"))
    assert (none.size, none.by_length[0].rejected) == (0, {RejectionReason.KERNEL_EXCEEDS_INPUT: 1})
    with pytest.raises(ValueError, match="space classic has no valid string"):
        none.unrank(np.array([0]))


def test_a_sampler_of_too_many_says_so_before_it_draws() -> None:
    """So a search that can never draw is not stored."""
    layers = [f"dropout=p:0.{digit}" for digit in range(1, 10)]
    space = space_of(*layers, replacement=True, max_layers=30)
    with pytest.raises(
        SpaceError, match=r"too many to be numbered; take shorter --lengths \(up to \d+ .*\), or search"
    ):
        _ = CensusSampler(space, 0).size


def test_a_way_out_that_there_is_not_is_not_named() -> None:
    """Of one length there is none shorter; of 30 and 40 layers, which are both too many, neither."""
    layers = [f"dropout=p:0.{digit}" for digit in range(1, 10)]
    for low, high in ((30, 30), (30, 40)):
        space = space_of(*layers, replacement=True, min_layers=low, max_layers=high)
        with pytest.raises(SpaceError, match="too many to be numbered; search it with --sampler rejection"):
            _ = CensusSampler(space, 0).size
        wider = replace(space, min_layers=1)
        with pytest.raises(
            SpaceError, match=r"too many to be numbered; take shorter --lengths \(up to \d+ .*\), or search"
        ):
            _ = CensusSampler(wider, 0, (low, high)).size


# ------------------------------------------------------------------ deep spaces, and some lengths of them

DEEP = space_of("dropout=p:0.5", "maxpool=kernel_size:2,stride:2,padding:0", replacement=True, max_layers=1_000)


def test_a_space_of_a_thousand_layers() -> None:
    """Pools halve a side of 28 four times; the layers between may be any number: as many as there are places."""
    found = census(DEEP)
    assert [count.valid for count in found.by_length] == [sum(comb(n, k) for k in range(5)) for n in range(1, 1_001)]
    ranks = np.concatenate(([0, 1, found.size - 1], np.random.default_rng(0).integers(0, found.size, 500)))
    batch = found.unrank(ranks)
    assert found.rank(batch).tolist() == ranks.tolist()
    automaton = compiled(DEEP)
    assert automaton is not None
    assert automaton.check(batch).valid.all()


def test_completions_that_no_string_of_the_lengths_has_may_be_countless() -> None:
    """Pools that shrink a side of 81 by 1 to 80: of 40 layers there are 10^23 strings, of 77 to 80 few."""
    shrinking = [f"maxpool=kernel_size:{side},stride:1,padding:0" for side in range(2, 82)]
    space = space_of(*shrinking, replacement=True, input_shape=Shape(1, 81, 81))
    assert [count.valid for count in census(space).by_length] == [comb(80, n) for n in range(1, 81)]
    found = census(of_lengths(space, 77, 80))
    ranks = np.arange(0, found.size, 97)
    batch = found.unrank(ranks)
    assert found.rank(batch).tolist() == ranks.tolist()
    lengths = np.count_nonzero(batch < 80, axis=1)
    assert (lengths.min(), lengths.max()) == (77, 79)
    assert np.where(batch < 80, batch + 1, 0).sum(axis=1).max() == 80


def test_some_lengths_of_a_space_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many strings to number, too many shapes for a table, strings beyond the ceilings: short ones are few."""
    monkeypatch.setattr("search.automaton.MOST_CELLS", 3_000)
    compiled_or_depth.cache_clear()
    free = [f"dropout=p:0.{digit}" for digit in range(1, 10)]
    growing = [f"avgpool=kernel_size:{2 * p},stride:1,padding:{p}" for p in range(1, 10)]
    widening = ["conv=channel_factor:10,kernel_size:1,stride:1,padding:0"]
    spaces = {
        "too many to be numbered": space_of(*free, replacement=True, max_layers=1_000),
        "too many to be counted": space_of(*growing, replacement=True, max_layers=1_000),
        "beyond the ceilings": space_of(*widening, replacement=True, max_layers=1_000, channels_within_side=False),
    }
    for reason, space in spaces.items():
        with pytest.raises(SpaceError, match=rf"{reason}.*take shorter --lengths"):
            _ = CensusSampler(space, 0).size
        sampler = CensusSampler(space, 0, (1, 2))
        assert sampler.size == len(space.layers) + len(space.layers) ** 2
        drawn = sampler.draw(0, sampler.size)
        assert len(set(drawn)) == sampler.size
        assert {len(architecture) for architecture in drawn} == {1, 2}
        assert sampler.positions(0, 2).shape == (2, 1_000)


def test_some_lengths_of_a_space_that_runs_through_too_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn as in a space that does not."""
    drawn = CensusSampler(CLASSIC, 3, (2, 4)).draw(0, 100)
    monkeypatch.setattr(module, "MOST_ENTRIES", 10_000)
    census.cache_clear()
    with pytest.raises(SpaceError, match="too large to be counted"):
        _ = CensusSampler(CLASSIC, 3).size
    assert CensusSampler(CLASSIC, 3, (2, 4)).draw(0, 100) == drawn


def test_the_work_of_counting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all depths where layers are put back; at one depth where the layers that are left tell cells apart."""
    monkeypatch.setattr(module, "MOST_STEPS", 1_000)
    monkeypatch.setattr(module, "MOST_SORTED", 1_000)
    census.cache_clear()
    for space, few in ((replace(DEEP, name="bounded"), 100), (replace(CLASSIC, name="bounded"), 2)):
        with pytest.raises(SpaceError, match=r"space bounded is too large to be counted.*take shorter --lengths"):
            _ = CensusSampler(space, 0).size
        assert census(of_lengths(space, space.min_layers, few)).size > 100


GROWING = [f"avgpool=kernel_size:{2 * p},stride:1,padding:{p}" for p in range(1, 10)]
WIDENING = ("conv=channel_factor:10,kernel_size:1,stride:1,padding:0", "dropout=p:0.5")


@pytest.mark.parametrize(
    ("limit", "most", "space", "says"),
    [
        ("automaton.MOST_CELLS", 3_000, space_of(*GROWING, replacement=True, max_layers=1_000), "reaches more than"),
        ("census.MOST_ENTRIES", 10_000, CLASSIC, "too large to be counted"),
        ("census.MOST_SORTED", 10_000, CLASSIC, "too large to be counted"),
        ("census.MOST_STEPS", 1_000, DEEP, "too large to be counted"),
        (
            "shapes.MOST_ELEMENTS", MOST_ELEMENTS,
            space_of(*WIDENING, replacement=True, max_layers=1_000, channels_within_side=False), "beyond the ceilings",
        ),
    ],
)  # fmt: skip
def test_a_refusal_knows_how_many_layers_can_be_counted(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, space: SearchSpace, says: str
) -> None:
    """For every limit: so many can, one more cannot; so they are counted at the first try."""
    monkeypatch.setattr(f"search.{limit}", most)
    compiled_or_depth.cache_clear()
    census.cache_clear()
    space = replace(space, name="limited")
    with pytest.raises(Uncountable, match=f"space limited.*{says}") as refused:
        census(space)
    layers = refused.value.layers
    assert space.min_layers < layers < space.max_layers
    with pytest.raises(Uncountable):
        census(of_lengths(space, space.min_layers, layers + 1))
    tried = census.cache_info().misses
    found = module.census_of_shorter(space, refused.value)
    assert (census.cache_info().misses - tried, found.space.max_layers) == (1, layers)


def test_what_always_fits_is_counted_up_to_a_thousand_layers() -> None:
    """Two dropouts: 2^1000 strings of as many layers; too many to be numbered above 60."""
    space = space_of("dropout=p:0.5", "dropout=p:0.25", replacement=True, max_layers=1_000)
    assert census(space).by_length[-1].valid == 2**1_000
    with pytest.raises(Uncountable, match="too many to be numbered") as refused:
        census(space).require_numbered()
    assert refused.value.layers == 61
    assert CensusSampler(space, 0, (1, 61)).size == 2**62 - 2
