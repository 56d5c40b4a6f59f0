"""The census: how many architectures a space has, exactly, and which is the n-th valid one.

What a string may go on with depends on the shape that it has reached and on the layers that it has used,
not on their order; and of layers that do the same to every shape (batchnorms and dropouts, say) only the
number matters. Strings that agree in both are one *cell*, so there are few: 5,942 in the classic space
for its 4,499,721,590 strings. The automaton leads from cell to cell; forward sums over them count
beginnings, backward sums completions. With the completions of every cell at hand, the n-th string is found
one layer at a time, as a word is in a dictionary (ranking and unranking: Knuth, The Art of Computer
Programming, vol. 4A, section 7.2.1; Nijenhuis and Wilf, Combinatorial Algorithms, 2nd ed., ch. 13).

The order of ranks: shorter architectures first, those of one length in the order of a dictionary whose
alphabet is the space's list of layers. So the ranks of a range of lengths are a range.

Not covered: spaces in which a budget can decide, for what a string has cost is not part of a cell, and
spaces of more than MOST_ENTRIES entries in the tables. Both are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import perm
from typing import Any

import numpy as np
import numpy.typing as npt

from search.automaton import MOST_CELLS, REASONS, ROWS_AT_ONCE, VALID, Automaton, Integers, compiled
from search.candidates import RejectionReason
from search.errors import SpaceError
from search.shapes import BYTES_PER_NUMBER
from search.space import CEILINGS, SearchSpace

MOST_ENTRIES = 1_000_000  # cells times layers of the space, or of a string; ten seconds, and a few hundred MiB
MOST_RANKS = 2**62  # a rank, and a sum of two, fit in 64 bits
NOWHERE = -1  # instead of a cell, after a layer that is refused or used up

Counts = npt.NDArray[Any]  # of int64, or of Python's integers where these would overflow


@dataclass(frozen=True)
class LengthCount:
    """How many strings of one length there are."""

    layers: int
    drawable: int
    rejected: dict[RejectionReason, int]  # by reason; none is 0

    @property
    def valid(self) -> int:
        """How many of them can be built."""
        return self.drawable - sum(self.rejected.values())


@dataclass(frozen=True, eq=False)
class _Level:
    """The cells of the beginnings of one length."""

    states: Integers  # (cells,), of the automaton
    left: Integers  # (cells, kinds), layers of each kind that may still be drawn
    after: Integers  # (cells, kinds), cell of the next level, or NOWHERE; the level behind the last has one cell


@dataclass(frozen=True, eq=False)
class Census:
    """The counts of a space, and its valid architectures by rank. Made by ``census``."""

    space: SearchSpace
    kinds: Integers  # (layers of the space,), the kind of each: layers of one kind do the same to every shape
    levels: tuple[_Level, ...]  # of 0 to max_layers - 1 layers
    completions: tuple[Counts, ...]  # of each level and the one behind, (cells, ways to go on with 0, 1, ... layers)
    by_length: tuple[LengthCount, ...]  # from min_layers to max_layers

    def size(self, lengths: tuple[int, int] | None = None) -> int:
        """Valid architectures, of all lengths or from ``lengths[0]`` to ``lengths[1]`` layers."""
        ranks = self.ranks(lengths)
        return ranks.stop - ranks.start  # which may be beyond what len() takes

    def ranks(self, lengths: tuple[int, int] | None = None) -> range:
        """The ranks of all lengths, or of ``lengths[0]`` to ``lengths[1]`` layers."""
        low, high = lengths or (self.space.min_layers, self.space.max_layers)
        before = sum(count.valid for count in self.by_length if count.layers < low)
        return range(before, before + sum(c.valid for c in self.by_length if low <= c.layers <= high))

    def require_numbered(self) -> None:
        """Raise SpaceError if the space has more valid strings than a rank can tell apart."""
        if self.size() > MOST_RANKS:
            raise SpaceError(
                f"space {self.space.name} has {self.size():,} valid strings, too many to be numbered; "
                "search it with --sampler rejection"
            )

    def rank(self, positions: Integers) -> Integers:
        """The ranks (B,) of a batch (B, max_layers) of positions in the space's layers.

        Raises ValueError unless all of them are valid strings of the space.
        """
        is_layer = positions < len(self.space.layers)
        lengths = np.count_nonzero(is_layer, axis=1)
        is_broken = (is_layer[:, 1:] & ~is_layer[:, :-1]).any(axis=1) | (positions < 0).any(axis=1)
        lengths[is_broken] = 0  # no string: a layer stands behind its end, or there is no such layer
        ranks = np.full(len(positions), NOWHERE, np.int64)
        for length, first in zip(range(self.space.min_layers, self.space.max_layers + 1), self._firsts, strict=False):
            rows = np.flatnonzero(lengths == length)
            for part in _parts(rows):
                found = self._rank(positions[part], length)
                ranks[part] = np.where(found == NOWHERE, NOWHERE, first + found)
        if (ranks == NOWHERE).any():
            raise ValueError(f"row {int(np.argmin(ranks))} is no valid architecture of space {self.space.name}")
        return ranks

    def unrank(self, ranks: Integers) -> Integers:
        """The architectures of a batch of ranks (B,), as positions (B, max_layers) in the space's layers.

        Raises ValueError for a rank that is not in ``ranks()``.
        """
        firsts, size = self._firsts, self.size()
        if len(ranks) and not (ranks.min() >= 0 and ranks.max() < size):
            has = f"ranks from 0 to {size - 1:,}" if size else "no valid string"
            raise ValueError(f"space {self.space.name} has {has}")
        positions = np.full((self.space.max_layers, len(ranks)), len(self.space.layers), np.int64)
        lengths = self.space.min_layers - 1 + np.searchsorted(firsts, ranks, side="right")
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            first = firsts[length - self.space.min_layers]
            for part in _parts(rows):
                positions[:length, part] = self._unrank(ranks[part] - first, length)
        return positions.T

    # -------------------------------------------------- one length

    @cached_property
    def _firsts(self) -> Integers:
        """(lengths,): the least rank of each length. Raises SpaceError if there are too many to number."""
        self.require_numbered()
        return np.cumsum([0, *(count.valid for count in self.by_length[:-1])], dtype=np.int64)

    @cached_property
    def _tables(self) -> dict[tuple[int, int], tuple[Integers, Integers]]:
        return {}

    def _table(self, depth: int, to_come: int) -> tuple[Integers, Integers]:
        """Of beginnings of ``depth`` layers, (layers, cells) each: completions with ``to_come`` more; next cells."""
        if (depth, to_come) not in self._tables:
            after = self.levels[depth].after
            ways = _after(self.completions[depth + 1][:, to_come - 1], after).astype(np.int64)
            self._tables[depth, to_come] = ways.T[self.kinds], after.T[self.kinds]
        return self._tables[depth, to_come]

    def _unrank(self, rests: Integers, length: int) -> Integers:
        """Positions (length, B) of the architectures of one length, by their ranks (B,) among those."""
        rows, cells = np.arange(len(rests)), np.zeros(len(rests), np.int64)
        unused = np.ones((len(self.kinds), len(rests)), np.int64)
        positions = np.zeros((length, len(rests)), np.int64)
        for depth in range(length):
            ways, after = self._table(depth, length - depth)
            up_to, before, chosen = np.zeros_like(rests), np.zeros_like(rests), positions[depth]
            for of_layer, is_unused in zip(ways, unused, strict=True):
                up_to += of_layer.take(cells) * is_unused  # strings that go on with this layer, or one before it
                is_before = up_to <= rests
                chosen += is_before
                np.maximum(before, up_to * is_before, out=before)
            rests = rests - before
            cells = after[chosen, cells]
            if not self.space.replacement:
                unused[chosen, rows] = 0
        return positions

    def _rank(self, positions: Integers, length: int) -> Integers:
        """The ranks (B,) among the architectures of one length; NOWHERE for one that is not valid."""
        rows, cells = np.arange(len(positions)), np.zeros(len(positions), np.int64)
        unused = np.ones((len(self.kinds), len(positions)), np.int64)
        ranks, is_valid = np.zeros(len(positions), np.int64), np.ones(len(positions), np.bool_)
        for depth in range(length):
            ways, after = self._table(depth, length - depth)
            chosen = np.ascontiguousarray(positions[:, depth])
            is_valid &= (ways[chosen, cells] > 0) & (unused[chosen, rows] > 0)
            for layer, (of_layer, is_unused) in enumerate(zip(ways, unused, strict=True)):
                ranks += of_layer.take(cells) * is_unused * (chosen > layer)
            cells = np.maximum(after[chosen, cells], 0)
            if not self.space.replacement:
                unused[chosen, rows] = 0
        return np.where(is_valid, ranks, NOWHERE)


def _parts(rows: Integers) -> list[Integers]:
    """Rows in parts whose arrays stay in a core's cache."""
    return [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]


# ------------------------------------------------------------------ counting


@lru_cache(maxsize=8)
def census(space: SearchSpace) -> Census:
    """Count a space. Raises SpaceError when it has budgets that can decide, or is too large to be counted."""
    automaton = compiled(space)
    if automaton is None:
        raise SpaceError(
            f"space {space.name} reaches more than {MOST_CELLS // (len(space.layers) + 1):,} shapes, too many to be "
            "counted; search it with --sampler rejection"
        )
    kinds = _kinds(automaton)
    levels = _levels(space, automaton, kinds)
    _require_no_budget(space, automaton, kinds, levels)
    dtype = np.int64 if _drawable(space, 0, space.max_layers) < MOST_RANKS else object
    completions = _completions(levels, dtype)
    by_length = _count(space, automaton, kinds, levels, dtype)
    return Census(space, kinds, levels, completions, by_length)


def _kinds(automaton: Automaton) -> Integers:
    """(layers,): numbers of the kinds, from 0 in the order in which they stand in the list."""
    following = automaton.following.reshape(-1, automaton.width)
    reasons = automaton.reasons.reshape(-1, automaton.width)
    number: dict[bytes, int] = {}
    effects = (following[:, i].tobytes() + reasons[:, i].tobytes() for i in range(automaton.width - 1))
    return np.array([number.setdefault(effect, len(number)) for effect in effects])


def _levels(space: SearchSpace, automaton: Automaton, kinds: Integers) -> tuple[_Level, ...]:
    """The cells of every length below the largest, and where the layers lead from them."""
    sizes = np.bincount(kinds)
    states, left = np.zeros(1, np.int64), sizes[None, :]
    levels: list[_Level] = []
    cells = 0
    for depth in range(space.max_layers):
        cells += len(states)
        if cells * max(len(kinds), space.max_layers) > MOST_ENTRIES:
            raise SpaceError(
                f"space {space.name} is too large to be counted: its strings reach more than {MOST_ENTRIES:,} pairs of "
                "shape and layers left; search it with --sampler rejection"
            )
        targets = automaton.following.take(_cells(automaton, kinds, states))
        goes_on = (left > 0) & (targets != automaton.refused)
        after = np.full(targets.shape, NOWHERE, np.int64)
        if depth == space.max_layers - 1:
            after[goes_on] = 0
            levels.append(_Level(states, left, after))
            break
        origin, kind = np.nonzero(goes_on)
        left_then = left[origin]
        if not space.replacement:
            left_then[np.arange(len(kind)), kind] -= 1
        reached = np.column_stack((targets[goes_on] // automaton.width, left_then))
        distinct, number = np.unique(reached, axis=0, return_inverse=True)
        after[goes_on] = number.reshape(-1)
        levels.append(_Level(states, left, after))
        states, left = distinct[:, 0], distinct[:, 1:]
    return tuple(levels)


def _cells(automaton: Automaton, kinds: Integers, states: Integers) -> Integers:
    """(states, kinds): the automaton's cell of the first layer of each kind in each state."""
    firsts = np.unique(kinds, return_index=True)[1]
    return states[:, None] * automaton.width + firsts


def _after(values: Counts, after: Integers) -> Counts:
    """``values`` of the next level's cells at the ends of transitions, 0 where these lead nowhere."""
    found = np.zeros(after.shape, values.dtype)
    leads_on = after != NOWHERE
    found[leads_on] = values[after[leads_on]]
    return found


def _completions(levels: Sequence[_Level], dtype: type) -> tuple[Counts, ...]:
    """Of each level and the one behind the last: (cells, ways to go on with exactly 0, 1, ... layers)."""
    found: list[Counts] = [np.ones((1, 1), dtype)]
    for level in reversed(levels):
        longer = [(level.left * _after(column, level.after)).sum(axis=1) for column in found[-1].T]
        found.append(np.stack([np.ones(len(level.states), dtype), *longer], axis=1))
    return tuple(reversed(found))


def _count(
    space: SearchSpace, automaton: Automaton, kinds: Integers, levels: Sequence[_Level], dtype: type
) -> tuple[LengthCount, ...]:
    """The counts of each length. A string is rejected where its beginning is, however it goes on."""
    refused: list[dict[RejectionReason, int]] = []  # beginnings, by the layers that they have passed
    ways: Counts = np.ones(1, dtype)  # beginnings in each cell
    for level, following in zip(levels, [*levels[1:], None], strict=True):
        reasons = automaton.reasons.take(_cells(automaton, kinds, level.states))
        beginnings = ways[:, None] * level.left
        refused.append({REASONS[r]: int(beginnings[reasons == r].sum()) for r in np.unique(reasons) if r != VALID})
        if following is not None:
            ways = np.zeros(len(following.states), dtype)
            goes_on = level.after != NOWHERE
            np.add.at(ways, level.after[goes_on], beginnings[goes_on])
    found = []
    for length in range(space.min_layers, space.max_layers + 1):
        rejected: dict[RejectionReason, int] = {}
        for depth in range(length):
            rest = _drawable(space, depth + 1, length - depth - 1)
            for reason, count in refused[depth].items():
                rejected[reason] = rejected.get(reason, 0) + count * rest
        in_order = {reason: rejected[reason] for reason in REASONS if rejected.get(reason)}
        found.append(LengthCount(length, _drawable(space, 0, length), in_order))
    return tuple(found)


def _drawable(space: SearchSpace, used: int, more: int) -> int:
    """Ways to draw ``more`` layers after ``used`` ones, valid or not."""
    layers = len(space.layers)
    return layers**more if space.replacement else perm(layers - used, more)


def _require_no_budget(space: SearchSpace, automaton: Automaton, kinds: Integers, levels: Sequence[_Level]) -> None:
    """Raise SpaceError if a budget of the space, or a ceiling of all spaces, can decide whether a string is valid."""
    budgets = [name for name in CEILINGS if getattr(space, name) is not None]
    if budgets:
        raise SpaceError(
            f"space {space.name} has {budgets[0]}: the census counts shapes, not budgets; "
            "search it with --sampler rejection, or leave the budget out"
        )
    rules, width = space.rules, automaton.width
    limits = np.array([rules.max_parameters, rules.max_macs, rules.max_activation_bytes // BYTES_PER_NUMBER])
    of_kinds = [
        np.stack([costs.reshape(-1, width)[:, np.flatnonzero(kinds == k)].max(axis=1) for k in range(kinds.max() + 1)])
        for costs in (automaton.layers.parameters, automaton.layers.macs, automaton.layers.numbers)
    ]  # each (kinds, states): the dearest layer of a kind
    classifier = np.stack((automaton.classifier.parameters, automaton.classifier.macs, automaton.classifier.numbers))
    most = np.zeros((3, 1), np.int64)  # that a beginning in each cell can have cost, each of the three for itself
    for level, following in zip(levels, [*levels[1:], None], strict=True):
        goes_on = level.after != NOWHERE
        targets = automaton.following.take(_cells(automaton, kinds, level.states))[goes_on]
        reached = np.stack(
            [
                (before[:, None] + dearest[:, level.states].T)[goes_on]
                for before, dearest in zip(most, of_kinds, strict=True)
            ]
        )
        totals = reached + classifier[:, targets // width]
        if (totals > limits[:, None]).any() or (targets == automaton.beyond).any():
            raise SpaceError(
                f"space {space.name} holds strings beyond the ceilings of every space (of parameters, multiply-adds or "
                "activations): the census counts shapes, not budgets; search it with --sampler rejection"
            )
        most = np.zeros((3, 0 if following is None else len(following.states)), np.int64)
        if following is not None:
            for bound, values in zip(most, reached, strict=True):
                np.maximum.at(bound, level.after[goes_on], values)
