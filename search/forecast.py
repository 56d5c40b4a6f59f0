"""What a search will find before it has begun: how many distinct, how many valid candidates its draws hold.

Draws are pure functions of their indices, so a search of up to MOST_COUNTED is simply drawn, and the answer is
exact. Beyond that the census knows how many strings of each length there are, and so the expectation: of D
strings of a length, each drawn with probability 1 / (lengths D), n draws hold D (1 - (1 - 1 / (lengths D))^n)
distinct ones. Where the census cannot count, the first MOST_COUNTED draws are scaled up.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from search.automaton import architectures, compiled
from search.census import census
from search.errors import SpaceError
from search.layer_string import format_architecture
from search.samplers import CensusSampler, ListedSampler, RejectionSampler, Sampler
from search.shapes import Rules
from search.sieve import Drawn, Judge, judge_with
from search.space import SearchSpace

MOST_COUNTED = 500_000  # draws; about a second
MOST_LAYERS_COUNTED = 5_000_000  # of all draws together
MOST_ONE_BY_ONE = 20_000  # of a space without a table
MOST_SAMPLED = 1_000  # valid strings that stand for all
BATCH = 16_384


class Basis(StrEnum):
    """What a forecast rests on."""

    COUNTED = "counted"  # every index was drawn: exact
    CENSUS = "census"  # which repeats and rejects nothing: exact
    EXPECTED = "expected"  # the expectation, from the exact counts of the space
    SCALED = "scaled"  # the first draws, scaled up: repeats among later ones are not seen


@dataclass(frozen=True, eq=False)
class Counted:
    """The first ``draws`` indices of a search, each of them drawn and checked."""

    draws: int = 0
    distinct_at: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # first draws, in order
    valid_at: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # those that are valid


@dataclass(frozen=True)
class Forecast:
    """Of the first ``draws`` indices of a search."""

    draws: int
    distinct: int
    valid: int  # of the distinct ones
    basis: Basis
    sample: tuple[str, ...]  # the first distinct valid layer strings, some of many
    macs: tuple[int, ...]  # multiply-adds per image of each
    counted: Counted = Counted()  # what the forecast knows, of these draws or of the first of them


def forecast(sampler: Sampler, rules: Rules, draws: int) -> Forecast:
    """What the first ``draws`` indices of a sampler hold. Raises what drawing raises."""
    if isinstance(sampler, ListedSampler):
        return _counted(judge_with(sampler, rules), draws)
    if compiled(sampler.space) is None:
        found = _counted(judge_with(sampler, rules), min(draws, MOST_ONE_BY_ONE))
    else:
        most = min(MOST_COUNTED, MOST_LAYERS_COUNTED // sampler.space.max_layers)
        found = _counted_at_once(sampler, min(draws, most))
    return of_first(found, sampler, draws)


def of_first(found: Forecast, sampler: Sampler, draws: int) -> Forecast:
    """What the first ``draws`` indices hold, by what a forecast of the same sampler has counted."""
    counted = found.counted
    if draws <= counted.draws or isinstance(sampler, ListedSampler):  # a list is counted whole
        distinct, valid = (int(np.searchsorted(at, draws)) for at in (counted.distinct_at, counted.valid_at))
        return replace(found, draws=draws, distinct=distinct, valid=valid, basis=Basis.COUNTED)
    if isinstance(sampler, CensusSampler):
        return replace(found, draws=draws, distinct=draws, valid=draws, basis=Basis.CENSUS)
    try:
        distinct, valid = map(round, expected(sampler.space, draws))
        return replace(found, draws=draws, distinct=distinct, valid=valid, basis=Basis.EXPECTED)
    except SpaceError:
        distinct, valid = (len(at) * draws // counted.draws for at in (counted.distinct_at, counted.valid_at))
        return replace(found, draws=draws, distinct=distinct, valid=valid, basis=Basis.SCALED)


def draws_until(found: Forecast, sampler: Sampler, valid: int) -> int:
    """The fewest draws that hold so many distinct valid candidates; all of the forecast's, if they hold fewer."""

    def of(draws: int) -> int:
        return of_first(found, sampler, draws).valid

    return bisect_left(range(found.draws), valid, 0, found.draws, key=of)


def expected(space: SearchSpace, draws: int) -> tuple[float, float]:
    """How many distinct, and distinct valid, strings the rejection sampler is expected to draw. Raises SpaceError."""
    lengths = census(space).by_length

    def distinct(drawable: int) -> float:
        """Of the strings of a length."""
        if drawable > 10**300:  # beyond floats, and beyond repeats
            return draws / len(lengths)
        missed = draws * math.log1p(-1 / (len(lengths) * drawable)) if len(lengths) * drawable > 1 else -math.inf
        return -drawable * math.expm1(missed)

    found = [distinct(length.drawable) for length in lengths]
    valid = [number * (length.valid / length.drawable) for number, length in zip(found, lengths, strict=True)]
    return sum(found), sum(valid)


def _counted(judge: Judge, draws: int) -> Forecast:
    first: dict[str, Drawn] = {}
    for start in range(0, draws, BATCH):
        for drawn in judge(start, min(start + BATCH, draws)):
            first.setdefault(drawn.layers, drawn)
    valid = [drawn for drawn in first.values() if drawn.verdict.valid]
    counted = Counted(draws, *(np.array([d.index for d in some], np.int64) for some in (first.values(), valid)))
    sample = valid[:MOST_SAMPLED]
    macs = tuple(drawn.verdict.macs or 0 for drawn in sample)
    layers = tuple(drawn.layers for drawn in sample)
    return Forecast(draws, len(first), len(valid), Basis.COUNTED, layers, macs, counted)


def _counted_at_once(sampler: RejectionSampler | CensusSampler, draws: int) -> Forecast:
    """The same on arrays, which need no string to be written."""
    automaton = compiled(sampler.space)
    assert automaton is not None
    batches = [sampler.positions(start, min(start + BATCH, draws)) for start in range(0, draws, BATCH)]
    positions = np.concatenate([batch.astype(np.int16) for batch in batches])
    firsts = np.sort(np.unique(_as_one(positions), return_index=True)[1])
    verdicts = automaton.check(positions[firsts])
    valid = np.flatnonzero(verdicts.valid)
    sample = architectures(sampler.space, positions[firsts[valid[:MOST_SAMPLED]]].astype(np.int64))
    macs = tuple(verdicts.macs[valid[:MOST_SAMPLED]].tolist())
    counted = Counted(draws, firsts, firsts[valid])
    layers = tuple(map(format_architecture, sample))
    return Forecast(draws, len(firsts), len(valid), Basis.COUNTED, layers, macs, counted)


def _as_one(positions: npt.NDArray[np.int16]) -> npt.NDArray[np.void]:
    """Each row as one value, equal where the rows are."""
    rows = np.ascontiguousarray(positions)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
