"""What a search will find before it has begun: how many distinct, how many valid candidates its draws hold.

Draws are pure functions of their indices, so a search of up to MOST_COUNTED is simply drawn, and the answer is
exact. Beyond that the census knows how many strings of each length there are, and so the expectation: of D
strings of a length, each drawn with probability 1 / (lengths D), n draws hold D (1 - (1 - 1 / (lengths D))^n)
distinct ones. Where the census cannot count, the first MOST_COUNTED draws are scaled up.
"""

import math
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Forecast:
    """Of the first ``draws`` indices of a search."""

    draws: int
    distinct: int
    valid: int  # of the distinct ones
    characters: float  # of a distinct layer string, on average; beyond what was counted, as there
    basis: Basis
    sample: tuple[str, ...]  # distinct valid layer strings, some of many, from all over what is still to be drawn
    macs: tuple[int, ...]  # multiply-adds per image of each


def forecast(sampler: Sampler, rules: Rules, draws: int, begun: int = 0) -> Forecast:
    """What the first ``draws`` indices of a sampler hold. Raises what drawing raises.

    The sample is of those that are not among the first ``begun``, which a search has drawn already, from all over
    them: short strings, which are cheap, come early, and then only repeat.
    """
    if isinstance(sampler, ListedSampler):
        return _counted(judge_with(sampler, rules), draws, begun)
    if compiled(sampler.space) is None:
        found = _counted(judge_with(sampler, rules), min(draws, MOST_ONE_BY_ONE), begun)
    else:
        most = min(MOST_COUNTED, MOST_LAYERS_COUNTED // sampler.space.max_layers)
        found = _counted_at_once(sampler, min(draws, most), begun)
    if found.draws == draws:
        return found
    if isinstance(sampler, CensusSampler):
        return replace(found, draws=draws, distinct=draws, valid=draws, basis=Basis.CENSUS)
    try:
        distinct, valid = expected(sampler.space, draws)
    except SpaceError:
        share = draws / found.draws
        distinct, valid = round(found.distinct * share), round(found.valid * share)
        return replace(found, draws=draws, distinct=distinct, valid=valid, basis=Basis.SCALED)
    return replace(found, draws=draws, distinct=round(distinct), valid=round(valid), basis=Basis.EXPECTED)


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


def _counted(judge: Judge, draws: int, begun: int) -> Forecast:
    first: dict[str, Drawn] = {}
    for start in range(0, draws, BATCH):
        for drawn in judge(start, min(start + BATCH, draws)):
            first.setdefault(drawn.layers, drawn)
    valid = [drawn for drawn in first.values() if drawn.verdict.valid]
    characters = sum(map(len, first)) / max(1, len(first))
    sample = [valid[place] for place in _spread(np.array([drawn.index for drawn in valid], np.int64), begun)]
    macs = tuple(drawn.verdict.macs or 0 for drawn in sample)
    layers = tuple(drawn.layers for drawn in sample)
    return Forecast(draws, len(first), len(valid), characters, Basis.COUNTED, layers, macs)


def _counted_at_once(sampler: RejectionSampler | CensusSampler, draws: int, begun: int) -> Forecast:
    """The same on arrays, which need no string to be written."""
    automaton = compiled(sampler.space)
    assert automaton is not None
    batches = [sampler.positions(start, min(start + BATCH, draws)) for start in range(0, draws, BATCH)]
    positions = np.concatenate([batch.astype(np.int16) for batch in batches])
    firsts = np.sort(np.unique(_as_one(positions), return_index=True)[1])
    verdicts = automaton.check(positions[firsts])
    valid = np.flatnonzero(verdicts.valid)
    sampled = valid[_spread(firsts[valid], begun)]
    sample = architectures(sampler.space, positions[firsts[sampled]].astype(np.int64))
    macs = tuple(verdicts.macs[sampled].tolist())
    of_layers = np.array([*(len(format_architecture((layer,))) for layer in sampler.space.layers), 0])
    used = np.bincount(positions[firsts].ravel(), minlength=len(of_layers))  # each layer, in all of them
    characters = float(used @ of_layers) / max(1, len(firsts))
    layers = tuple(map(format_architecture, sample))
    return Forecast(draws, len(firsts), len(valid), characters, Basis.COUNTED, layers, macs)


def _spread(indices: npt.NDArray[np.int64], begun: int) -> npt.NDArray[np.int64]:
    """Places of some candidates, evenly from all that are not drawn yet, by their indices; the last, if all are."""
    later = np.flatnonzero(indices >= begun)
    if not len(later):
        later = np.arange(len(indices))[-MOST_SAMPLED:]
    return later[np.linspace(0, len(later) - 1, min(len(later), MOST_SAMPLED)).astype(np.int64)]


def _as_one(positions: npt.NDArray[np.int16]) -> npt.NDArray[np.void]:
    """Each row as one value, equal where the rows are."""
    rows = np.ascontiguousarray(positions)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
