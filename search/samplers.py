"""Samplers: candidate i of a search, as a pure function of (space, seed, i).

Anything that was ever drawn can be drawn again, by anyone, from four stored values: space, sampler
and its version, seed and index. There is no generator state to save.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from search.errors import Stopped
from search.layer_string import parse
from search.layers import Architecture
from search.settings import SearchSettings
from search.space import SearchSpace

HALVES_PER_COUNTER = 8  # one Philox counter gives four 64-bit words, that is eight 32-bit halves
WORDS_PER_COUNTER = 4


@dataclass(frozen=True)
class RejectionSampler:
    """The classic draw: a uniform length, then that many layers without replacement, order kept.

    Candidate i owns a fixed slot of the raw stream of Philox-4x64-10 (Salmon et al., "Parallel random
    numbers: as easy as 1, 2, 3", SC'11) keyed by the seed: the output of k counters from i * k. Its
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

    def halves(self, start: int, stop: int) -> npt.NDArray[np.uint64]:
        """The 32-bit halves of indices start to stop - 1, as (stop - start, 8 k) uint64."""
        stream = np.random.Philox(key=self.seed, counter=start * self.counters)
        words = stream.random_raw((stop - start) * self.counters * WORDS_PER_COUNTER)
        pairs = np.stack((words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)), axis=1)  # low half first
        return pairs.reshape(stop - start, self.counters * HALVES_PER_COUNTER)

    def draw(self, start: int, stop: int) -> list[Architecture]:
        """The architectures of indices start to stop - 1, invalid ones included."""
        if stop <= start:
            return []
        space, halves = self.space, self.halves(start, stop)
        lengths = space.min_layers + multiply_high(halves[:, 0], space.max_layers - space.min_layers + 1)
        if space.replacement:
            chosen = multiply_high(halves[:, 1 : 1 + space.max_layers], len(space.layers))
        else:
            chosen = np.argsort(halves[:, 1 : 1 + len(space.layers)], axis=1, kind="stable")
        layers = space.layers
        return [
            tuple(layers[i] for i in row[:length])
            for row, length in zip(chosen.tolist(), lengths.tolist(), strict=True)
        ]


def multiply_high(half: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.int64]:
    """A 32-bit half mapped to 0 ... n - 1 as floor(half * n / 2^32)."""
    return ((half * np.uint64(n)) >> np.uint64(32)).astype(np.int64)


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
            raise Stopped(f"the list has {len(self.strings)} strings here, and index {stop - 1} is to be drawn")
        return [parse(text) for text in self.strings[start:stop]]


SAMPLERS = {RejectionSampler.name: RejectionSampler}  # by the name that --sampler takes
VERSIONS = {sampler.name: sampler.version for sampler in (RejectionSampler, ListedSampler)}


def sampler_of(settings: SearchSettings, listed: Sequence[str]) -> RejectionSampler | ListedSampler:
    """What draws a search's candidates; ``listed`` are its stored strings, if it was given a list."""
    if settings.sampler == ListedSampler.name:
        return ListedSampler(listed)
    return SAMPLERS[settings.sampler](settings.space, settings.seed)
