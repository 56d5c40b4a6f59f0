"""Samplers: candidate i of a search, as a pure function of (space, seed, i).

Anything that was ever drawn can be drawn again, by anyone, from four stored values: space, sampler
and its version, seed and index. There is no generator state to save.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from search.automaton import Integers, architectures
from search.census import Census, census, of_lengths
from search.errors import SpaceError, Stopped, Uncountable
from search.layer_string import parse
from search.layers import Architecture
from search.permutation import Permutation
from search.settings import SearchSettings
from search.space import SearchSpace

HALVES_PER_COUNTER = 8  # one Philox counter gives four 64-bit words, that is eight 32-bit halves
WORDS_PER_COUNTER = 4


@dataclass(frozen=True)
class RejectionSampler:
    """The classic draw: a uniform length, then that many layers without replacement, order kept.

    Candidate i owns a fixed slot of the raw stream of Philox-4x64-10 (Salmon et al., "Parallel random
    numbers: as easy as 1, 2, 3", SC'11) keyed by the seed: the k counters from i * k, as numpy counts:
    ``Philox(counter=c)`` gives the output of counter c + 1 first. Its
    32-bit halves, low half first, are: the length, by multiply-high; then one sort key a layer of the
    space, ordered by (key, position). With replacement the next halves are one multiply-high a layer.
    Only raw words are used: numpy promises its bit streams for ever, its distributions not (NEP 19).

    The length is biased by less than (number of lengths) / 2^32, a layer by less than (number of
    layers) / 2^32, both far below what a search can see.
    """

    name: ClassVar[str] = "rejection"
    version: ClassVar[int] = 1  # stored with a search; raised whenever a draw changes

    space: SearchSpace
    seed: int  # 0 to 2^63 - 1

    @property
    def counters(self) -> int:
        """Philox counters that a candidate owns (k)."""
        halves = 1 + max(len(self.space.layers), self.space.max_layers)
        return -(-halves // HALVES_PER_COUNTER)

    def halves(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """The 32-bit halves of indices start to stop - 1, as (stop - start, 8 k)."""
        stream = np.random.Philox(key=self.seed, counter=start * self.counters)
        words = stream.random_raw((stop - start) * self.counters * WORDS_PER_COUNTER)
        low_half_first = words.astype("<u8", copy=False).view("<u4")
        return low_half_first.reshape(stop - start, self.counters * HALVES_PER_COUNTER)

    def positions(self, start: int, stop: int) -> Integers:
        """The architectures of indices start to stop - 1, as a batch for ``Automaton.check``."""
        space, halves = self.space, self.halves(start, stop)
        if space.replacement:
            drawn = multiply_high(halves[:, 1 : 1 + space.max_layers], len(space.layers))
        else:
            drawn = _sorted_places(halves[:, 1 : 1 + len(space.layers)], space.max_layers)
        batch = np.ascontiguousarray(drawn.T)  # a layer after the other, as the automaton reads them
        lengths = space.min_layers + multiply_high(halves[:, 0], space.max_layers - space.min_layers + 1)
        for depth in range(space.min_layers, space.max_layers):
            np.copyto(batch[depth], len(space.layers), where=lengths <= depth)
        return batch.T

    def draw(self, start: int, stop: int) -> list[Architecture]:
        """The architectures of indices start to stop - 1, invalid ones included."""
        return architectures(self.space, self.positions(start, stop))


def multiply_high(halves: npt.NDArray[np.uint32], n: int) -> Integers:
    """32-bit halves mapped to 0 ... n - 1 as floor(half * n / 2^32)."""
    return ((halves.astype(np.uint64) * np.uint64(n)) >> np.uint64(32)).view(np.int64)


def _sorted_places(keys: npt.NDArray[np.uint32], most: int) -> Integers:
    """The first ``most`` places (B, most) of each row's keys (B, n), ordered by (key, place).

    One number holds both, so that plain sorting orders them: three times as fast as a stable argsort.
    """
    places = keys.shape[1]
    bits = np.uint64((places - 1).bit_length())
    both = keys.astype(np.uint64)
    both <<= bits
    both |= np.arange(places, dtype=np.uint64)
    both.sort(axis=1)
    first = np.empty((most, len(keys)), np.uint64)  # a place after the other
    return np.bitwise_and(both[:, :most].T, np.uint64((1 << int(bits)) - 1), out=first).view(np.int64).T


@dataclass(frozen=True)
class CensusSampler:
    """Draws the valid architectures of a space, or of some lengths of it: each one once, in random order.

    Candidate i is the one whose rank a permutation, keyed by the seed, gives for i. So any index is computed
    alone: coordinators share nothing but which indices are drawn, and there are no rejections and no repeats.
    Any part of the indices is a sample without replacement, uniform over the architectures.
    """

    name: ClassVar[str] = "census"
    version: ClassVar[int] = 1

    space: SearchSpace
    seed: int  # 0 to 2^63 - 1
    lengths: tuple[int, int] | None = None  # fewest and most layers; None: the space's

    @cached_property
    def _census(self) -> Census:
        """Numbered. Raises SpaceError if that cannot be."""
        try:
            found = census(self.space if self.lengths is None else of_lengths(self.space, *self.lengths))
            found.require_numbered()
        except Uncountable as error:
            if error.layers < self.space.min_layers:  # none of its lengths is short enough
                raise
            shorter = f"take shorter --lengths (up to {error.layers} layers may do), or {error.instead}"
            raise Uncountable(error.reason, error.layers, shorter) from None
        return found

    @cached_property
    def size(self) -> int:
        """How many architectures there are to draw. Raises SpaceError if they cannot be counted or numbered."""
        if not self._census.size:
            counted = self._census.space
            raise SpaceError(
                f"space {counted.name} has no valid string of {counted.min_layers} to {counted.max_layers} layers; "
                "netsieve space count says why"
            )
        return self._census.size

    def positions(self, start: int, stop: int) -> Integers:
        """The architectures of indices start to stop - 1, as a batch for ``Automaton.check``.

        Raises Stopped beyond the last one, SpaceError if the space cannot be counted or numbered.
        """
        if stop > self.size:
            raise Stopped(
                f"the census has {self.size:,} architectures, and index {stop - 1} is to be drawn; draw up to index "
                f"{self.size - 1}"
            )
        indices = np.arange(start, stop)
        ranks = Permutation(self.size, self.seed)(indices) if len(indices) else indices
        drawn = self._census.unrank(ranks)
        shorter = self.space.max_layers - drawn.shape[1]
        if not shorter:
            return drawn
        return np.pad(drawn.T, ((0, shorter), (0, 0)), constant_values=len(self.space.layers)).T

    def draw(self, start: int, stop: int) -> list[Architecture]:
        """The architectures of indices start to stop - 1. Raises as ``positions`` does."""
        return architectures(self.space, self.positions(start, stop))


@dataclass(frozen=True)
class ListedSampler:
    """Draws the strings of a list, in its order: candidate i is string i, counted from 0. Nothing is random."""

    name: ClassVar[str] = "listed"
    version: ClassVar[int] = 1

    strings: Sequence[str]  # canonical layer strings

    def draw(self, start: int, stop: int) -> list[Architecture]:
        """The architectures of indices start to stop - 1. Raises Stopped beyond the end of the list.

        A list may be extended by another run: who draws beyond what it knows must read the list again.
        """
        if stop > len(self.strings):
            raise Stopped(
                f"the list has {len(self.strings)} strings here, and index {stop - 1} is to be drawn; "
                "go on with netsieve resume, which reads the list again"
            )
        return [parse(text) for text in self.strings[start:stop]]


Sampler = RejectionSampler | CensusSampler | ListedSampler
VERSIONS = {sampler.name: sampler.version for sampler in (RejectionSampler, CensusSampler, ListedSampler)}


def sampler_of(settings: SearchSettings, listed: Sequence[str] = ()) -> Sampler:
    """What draws a search's candidates; ``listed`` are its stored strings, if it was given a list."""
    if settings.sampler == ListedSampler.name:
        return ListedSampler(listed)
    return drawing(settings.sampler, settings.space, settings.seed, settings.lengths)


def drawing(
    sampler: str, space: SearchSpace, seed: int, lengths: tuple[int, int] | None = None
) -> RejectionSampler | CensusSampler:
    """The sampler of that name, as ``--sampler`` takes it; ``lengths`` are for the census."""
    return CensusSampler(space, seed, lengths) if sampler == CensusSampler.name else RejectionSampler(space, seed)
