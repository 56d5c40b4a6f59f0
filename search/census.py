"""The census: how many architectures a space has, exactly, and which is the n-th valid one.

What a string may go on with depends on the shape that it has reached and on the layers that it has used,
not on their order; and of layers that do the same to every shape (batchnorms and dropouts, say) only the
number matters. Strings that agree in both are one *cell*, so there are few: 5,942 in the classic space
for its 4,499,721,590 strings. Where a layer may stand twice, nothing is used up, and a cell is a shape. The
automaton leads from cell to cell; forward sums over them count beginnings, backward sums completions. With the
completions of every cell at hand, the n-th string is found one layer at a time, as a word is in a dictionary
(ranking and unranking: Knuth, The Art of Computer Programming, vol. 4A, section 7.2.1; Nijenhuis and Wilf,
Combinatorial Algorithms, 2nd ed., ch. 13).

The order of ranks: shorter architectures first, those of one length in the order of a dictionary whose
alphabet is the space's list of layers. Some lengths of a space are a space of their own, with other
``min_layers`` and ``max_layers``: where the whole is too large, they may be few enough.

Not covered: spaces in which a budget can decide, for what a string has cost is not part of a cell, and
spaces of more than MOST_ENTRIES transitions, or MOST_STEPS over all lengths. Both are refused.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import perm

import numpy as np

from search.automaton import MOST_CELLS, REASONS, ROWS_AT_ONCE, VALID, Automaton, Integers, compiled
from search.candidates import RejectionReason
from search.errors import SpaceError
from search.shapes import BYTES_PER_NUMBER, magnitude
from search.space import CEILINGS, SearchSpace

MOST_ENTRIES = 1_000_000  # cells times kinds of layers
MOST_STEPS = 20_000_000  # the same, over the cells of every length; ten seconds, and a few hundred MiB
MOST_RANKS = 2**62  # a rank, and a sum of two, fit in 64 bits
INSTEAD = "take shorter --lengths, or search it with --sampler rejection"
NOWHERE = -1  # instead of a cell, after a layer that is refused or used up


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
class _Cells:
    """The cells that beginnings reach, those first that fewer layers reach.

    The last one stands for all that only the longest strings reach: nothing follows them.
    """

    within: tuple[int, ...]  # how many cells 0, 1, ... max_layers layers reach, or fewer layers
    states: Integers  # (cells but the last,), of the automaton
    left: Integers  # (kinds, cells but the last), layers of each kind that may still be drawn
    after: Integers  # (kinds, cells but the last), the cell behind a layer of each kind, or NOWHERE


@dataclass(frozen=True, eq=False)
class Census:
    """The counts of a space, and its valid architectures by rank. Made by ``census``."""

    space: SearchSpace
    kinds: Integers  # (layers of the space,), the kind of each: layers of one kind do the same to every shape
    cells: _Cells
    by_length: tuple[LengthCount, ...]  # from min_layers to max_layers

    @cached_property
    def size(self) -> int:
        """Valid architectures: their ranks are from 0 to ``size - 1``."""
        return sum(count.valid for count in self.by_length)

    def require_numbered(self) -> None:
        """Raise SpaceError if the space has more valid strings than a rank can tell apart."""
        if self.size > MOST_RANKS:
            raise SpaceError(
                f"space {self.space.name} has {magnitude(self.size)} valid strings of {self.space.min_layers} to "
                f"{self.space.max_layers} layers, too many to be numbered; {INSTEAD}"
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
        for rows in _parts(lengths, self.space.min_layers):
            ranks[rows] = self._rank(positions[rows], lengths[rows])
        if (ranks == NOWHERE).any():
            raise ValueError(f"row {int(np.argmin(ranks))} is no valid architecture of space {self.space.name}")
        return ranks

    def unrank(self, ranks: Integers) -> Integers:
        """The architectures of a batch of ranks (B,), as positions (B, max_layers) in the space's layers.

        Raises ValueError for a rank that is not from 0 to ``size - 1``.
        """
        firsts = self._firsts
        if len(ranks) and not (ranks.min() >= 0 and ranks.max() < self.size):
            has = f"ranks from 0 to {self.size - 1:,}" if self.size else "no valid string"
            raise ValueError(f"space {self.space.name} has {has}")
        positions = np.full((self.space.max_layers, len(ranks)), len(self.space.layers), np.int64)
        lengths = self.space.min_layers - 1 + np.searchsorted(firsts, ranks, side="right")
        for rows in _parts(lengths, self.space.min_layers):
            positions[:, rows] = self._unrank(ranks[rows], lengths[rows])
        return positions.T

    # -------------------------------------------------- one layer after the other

    @cached_property
    def _firsts(self) -> Integers:
        """(lengths,): the least rank of each length. Raises SpaceError if there are too many to number."""
        self.require_numbered()
        return np.cumsum([0, *(count.valid for count in self.by_length[:-1])], dtype=np.int64)

    @cached_property
    def _ways(self) -> tuple[Integers, ...]:
        """Of 1, 2, ... layers to come, (kinds, cells) each: completions that begin with one layer of the kind.

        The cells are those that are reached early enough. Sums wrap around, modulo 2^64: what is beyond MOST_RANKS
        counts completions of shorter strings than the space's, and is not asked for.
        """
        self.require_numbered()
        found = []
        completions = np.ones(self.cells.within[-1], np.int64)
        for cells in reversed(self.cells.within[:-1]):
            ways = np.append(completions, 0).take(self.cells.after[:, :cells])  # the last is that of NOWHERE
            found.append(ways)
            completions = (self.cells.left[:, :cells] * ways).sum(axis=0)
        return tuple(found)

    def _unrank(self, ranks: Integers, lengths: Integers) -> Integers:
        """Positions (max_layers, B) of architectures, by their ranks and lengths (B,), the longest first.

        Whatever its length, an architecture's last layer is found together with that of all others: what may
        follow depends on the cell and the number of layers to come.
        """
        rows, longest, going = np.arange(len(ranks)), int(lengths[0]), _going(lengths)
        rests, cells = ranks - self._firsts[lengths - self.space.min_layers], np.zeros(len(ranks), np.int64)
        unused = np.ones((len(self.kinds), len(ranks)), np.int64)
        found = np.zeros((longest, len(ranks)), np.int64)  # the last layer of each in the last row
        for chosen, to_come in zip(found, range(longest, 0, -1), strict=True):
            n, ways = going[to_come], self._ways[to_come - 1]
            here, rest, layer = cells[:n], rests[:n], chosen[:n]
            up_to, before = np.zeros_like(rest), np.zeros_like(rest)
            for kind, is_unused in zip(self.kinds, unused, strict=True):
                up_to += ways[kind].take(here) * is_unused[:n]  # strings that go on with this layer, or one before it
                is_before = up_to <= rest
                layer += is_before
                np.maximum(before, up_to * is_before, out=before)
            rest -= before
            here[:] = self.cells.after[self.kinds[layer], here]
            if not self.space.replacement:
                unused[layer, rows[:n]] = 0
        positions = np.full((self.space.max_layers, len(ranks)), len(self.kinds), np.int64)
        for length in range(int(lengths[-1]), longest + 1):
            of_length = slice(going[length + 1], going[length])
            positions[:length, of_length] = found[longest - length :, of_length]
        return positions

    def _rank(self, positions: Integers, lengths: Integers) -> Integers:
        """The ranks (B,) of positions (B, max_layers), the longest first; NOWHERE for what is not valid."""
        rows, going = np.arange(len(positions)), _going(lengths)
        cells, is_valid = np.zeros(len(positions), np.int64), np.ones(len(positions), np.bool_)
        unused = np.ones((len(self.kinds), len(positions)), np.int64)
        ranks = self._firsts[lengths - self.space.min_layers]
        for to_come in range(int(lengths[0]), 0, -1):
            n, ways = going[to_come], self._ways[to_come - 1]
            here, chosen = cells[:n], positions[rows[:n], lengths[:n] - to_come]
            is_valid[:n] &= (ways[self.kinds[chosen], here] > 0) & (unused[chosen, rows[:n]] > 0)
            for layer, (kind, is_unused) in enumerate(zip(self.kinds, unused, strict=True)):
                ranks[:n] += ways[kind].take(here) * is_unused[:n] * (chosen > layer)
            here[:] = np.maximum(self.cells.after[self.kinds[chosen], here], 0)
            if not self.space.replacement:
                unused[chosen, rows[:n]] = 0
        return np.where(is_valid, ranks, NOWHERE)


def _parts(lengths: Integers, least: int) -> list[Integers]:
    """The rows of at least ``least`` layers, the longest first, in parts whose arrays stay in a core's cache."""
    order = np.argsort(-lengths.astype(np.int16), kind="stable")
    rows = order[: np.count_nonzero(lengths >= least)]
    return [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]


def _going(lengths: Integers) -> list[int]:
    """Of lengths in falling order: how many are at least 0, 1, ..., and one more than the largest of them."""
    found: list[int] = np.searchsorted(-lengths, -np.arange(lengths[0] + 2), side="right").tolist()
    return found


# ------------------------------------------------------------------ counting


@lru_cache(maxsize=8)
def census(space: SearchSpace) -> Census:
    """Count a space. Raises SpaceError when it has budgets that can decide, or is too large to be counted."""
    budgets = [name for name in CEILINGS if getattr(space, name) is not None]
    if budgets:
        raise SpaceError(
            f"space {space.name} has {budgets[0]}: the census counts shapes, not budgets; "
            "search it with --sampler rejection, or leave the budget out"
        )
    automaton = compiled(space)
    if automaton is None:
        raise SpaceError(
            f"space {space.name} reaches more than {MOST_CELLS // (len(space.layers) + 1):,} shapes within "
            f"{space.max_layers} layers, too many to be counted; {INSTEAD}"
        )
    kinds = _kinds(automaton)
    cells = _cells(space, automaton, kinds)
    by_depth = _by_depth(space, cells)
    _require_within_ceilings(space, automaton, kinds, cells, by_depth)
    return Census(space, kinds, cells, _count(space, automaton, kinds, cells, by_depth))


def census_of_shorter(space: SearchSpace) -> Census:
    """The counts of as many lengths as can be counted, of a space that ``census`` refuses, from min_layers on.

    Raises SpaceError if there is none.
    """
    counted, refused, step = space.min_layers, space.max_layers, 1
    found = census(of_lengths(space, counted, counted))
    while refused - counted > 1:
        tried = min(counted + step, (counted + refused) // 2)
        try:
            found = census(of_lengths(space, space.min_layers, tried))
        except SpaceError:
            refused = tried
        else:
            counted, step = tried, 2 * step
    return found


def of_lengths(space: SearchSpace, low: int, high: int) -> SearchSpace:
    """A space's strings of ``low`` to ``high`` layers. Raises SpaceError unless it has such lengths."""
    if not space.min_layers <= low <= high <= space.max_layers:
        raise SpaceError(
            f"--lengths {low}-{high}: space {space.name} has strings of {space.min_layers} to {space.max_layers} layers"
        )
    return replace(space, min_layers=low, max_layers=high)


def _kinds(automaton: Automaton) -> Integers:
    """(layers,): numbers of the kinds, from 0 in the order in which they stand in the list."""
    following = automaton.following.reshape(-1, automaton.width)
    reasons = automaton.reasons.reshape(-1, automaton.width)
    number: dict[bytes, int] = {}
    effects = (following[:, i].tobytes() + reasons[:, i].tobytes() for i in range(automaton.width - 1))
    return np.array([number.setdefault(effect, len(number)) for effect in effects])


def _cells(space: SearchSpace, automaton: Automaton, kinds: Integers) -> _Cells:
    """What the layers lead to from the input on, breadth first."""
    sizes = np.bincount(kinds)
    cell_of = np.full(len(automaton.following) // automaton.width, NOWHERE)  # each state's, where nothing is used up
    cell_of[0] = 0
    states, left = np.zeros(1, np.int64), sizes[None, :]  # of the cells that are new at this depth
    levels, within = [], [1]
    for depth in range(1, space.max_layers + 1):
        if within[-1] * len(sizes) > MOST_ENTRIES:
            raise _too_large(space, depth)
        after = np.full(left.shape, NOWHERE, np.int64)
        targets = automaton.following.take(_of_kinds(automaton, kinds, states).T)
        leads_on = (left > 0) & (targets != automaton.refused)
        levels.append((states, left, after))
        origin, kind = np.nonzero(leads_on)
        if depth == space.max_layers:
            after[leads_on] = within[-1]
            within.append(within[-1] + bool(len(origin)))
            break
        reached = targets[leads_on] // automaton.width
        if space.replacement:
            states, number = np.unique(reached, return_inverse=True)
            left = np.broadcast_to(sizes, (len(states), len(sizes)))
        else:
            if len(origin) * len(sizes) > MOST_STEPS:
                raise _too_large(space, depth + 1)
            then = left[origin]
            then[np.arange(len(kind)), kind] -= 1
            distinct, number = np.unique(np.column_stack((reached, then)), axis=0, return_inverse=True)
            states, left = distinct[:, 0], distinct[:, 1:]
        cells = cell_of[states] if space.replacement else np.full(len(states), NOWHERE)
        is_new = cells == NOWHERE
        cells[is_new] = within[-1] + np.arange(np.count_nonzero(is_new))
        after[leads_on] = cells[number.reshape(-1)]
        cell_of[states] = cells
        states, left = states[is_new], left[is_new]
        within.append(within[-1] + len(states))
    columns = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    return _Cells(tuple(within), *(np.ascontiguousarray(column.T) for column in columns))


def _too_large(space: SearchSpace, layers: int) -> SpaceError:
    return SpaceError(
        f"space {space.name} is too large to be counted: strings of {layers} layers lead through too many pairs of a "
        f"shape with the layers left; {INSTEAD}"
    )


def _by_depth(space: SearchSpace, cells: _Cells) -> list[Integers]:
    """The cells that beginnings of 0, 1, ... max_layers - 1 layers reach. Raises SpaceError if they are too many."""
    found = [np.zeros(1, np.int64)]
    steps = 0
    for depth in range(1, space.max_layers):
        steps += len(found[-1]) * len(cells.after)
        if steps > MOST_STEPS:
            raise _too_large(space, depth)
        is_reached = np.zeros(cells.within[-1] + 1, np.bool_)
        is_reached[cells.after[:, found[-1]]] = True
        is_reached[NOWHERE] = False  # the last one
        found.append(np.flatnonzero(is_reached))
    return found


def _of_kinds(automaton: Automaton, kinds: Integers, states: Integers) -> Integers:
    """(kinds, states): the automaton's cell of the first layer of each kind in each state."""
    firsts = np.unique(kinds, return_index=True)[1]
    return states * automaton.width + firsts[:, None]


def _count(
    space: SearchSpace, automaton: Automaton, kinds: Integers, cells: _Cells, by_depth: list[Integers]
) -> tuple[LengthCount, ...]:
    """The counts of each length. A string is rejected where its beginning is, however it goes on."""
    dtype = np.int64 if drawable(space, space.max_layers) < MOST_RANKS else object  # Python's integers, of any size
    reasons = automaton.reasons.take(_of_kinds(automaton, kinds, cells.states))
    refusing = {  # (cells,), of each reason: layers that are refused for it
        number: np.where(reasons == number, cells.left, 0).sum(axis=0)
        for number in np.unique(reasons)
        if number != VALID
    }
    rejected = dict.fromkeys(refusing, 0)
    ways = np.ones(1, dtype)  # beginnings in each cell
    found = []
    for length, here in enumerate(by_depth, 1):
        choices = len(space.layers) - (0 if space.replacement else length - 1)  # of a layer that makes it so long
        for number, layers in refusing.items():
            rejected[number] = rejected[number] * choices + int((ways[here] * layers[here]).sum())
        if length >= space.min_layers:
            counts = {REASONS[number]: count for number, count in rejected.items() if count}
            found.append(LengthCount(length, drawable(space, length), counts))
        kind, place = np.nonzero(cells.after[:, here] != NOWHERE)
        origin = here[place]
        longer = np.zeros(cells.within[-1], dtype)
        np.add.at(longer, cells.after[kind, origin], ways[origin] * cells.left[kind, origin])
        ways = longer
    return tuple(found)


def drawable(space: SearchSpace, length: int) -> int:
    """Strings of one length, valid or not."""
    layers = len(space.layers)
    return layers**length if space.replacement else perm(layers, length)


def _require_within_ceilings(
    space: SearchSpace, automaton: Automaton, kinds: Integers, cells: _Cells, by_depth: list[Integers]
) -> None:
    """Raise SpaceError if a ceiling of all spaces can decide whether a string is valid."""
    rules, width = space.rules, automaton.width
    limits = np.array([rules.max_parameters, rules.max_macs, rules.max_activation_bytes // BYTES_PER_NUMBER])
    of_layers, of_classifier = (
        np.stack((costs.parameters, costs.macs, costs.numbers)) for costs in (automaton.layers, automaton.classifier)
    )
    layers = of_layers.reshape(3, -1, width)[:, cells.states]  # (3, cells, layers)
    dearest = np.stack([layers[:, :, np.flatnonzero(kinds == k)].max(axis=2) for k in range(kinds.max() + 1)], axis=1)
    targets = automaton.following.take(_of_kinds(automaton, kinds, cells.states))
    ends = of_classifier[:, targets // width]  # and so dearest: (3, kinds, cells)
    beyond = targets == automaton.beyond
    most = np.zeros((3, cells.within[-1]), np.int64)  # that a beginning in each cell can have cost, each for itself
    for here in by_depth:
        kind, place = np.nonzero(cells.after[:, here] != NOWHERE)
        origin = here[place]
        reached = most[:, origin] + dearest[:, kind, origin]
        if (reached + ends[:, kind, origin] > limits[:, None]).any() or beyond[kind, origin].any():
            raise SpaceError(
                f"space {space.name} holds strings of up to {space.max_layers} layers that are beyond the ceilings of "
                "every space (of parameters, multiply-adds or activations): the census counts shapes, not budgets; "
                + INSTEAD
            )
        most = np.zeros_like(most)
        for bound, values in zip(most, reached, strict=True):
            np.maximum.at(bound, cells.after[kind, origin], values)
