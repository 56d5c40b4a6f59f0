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
spaces of more than MOST_ENTRIES transitions, or MOST_STEPS over all lengths. Both are refused. Costs are bounded
from above only, so a space is refused too in which a budget could decide but does not.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from math import perm

import numpy as np

from search.automaton import MOST_CELLS, REASONS, ROWS_AT_ONCE, VALID, Automaton, Integers, compiled_or_depth
from search.candidates import RejectionReason
from search.errors import SpaceError, Uncountable
from search.shapes import BYTES_PER_NUMBER, magnitude
from search.space import CEILINGS, SearchSpace

MOST_ENTRIES = 1_000_000  # cells times kinds of layers; where layers may stand twice, MOST_CELLS sees to it
MOST_STEPS = 20_000_000  # the same, over the cells of every length: ten seconds to count
MOST_SORTED = 20_000_000  # numbers that tell the cells of one length apart, sorted at once: 20 seconds, and 0.7 GiB
MOST_RANKS = 2**62  # a rank, and a sum of two, fit in 64 bits
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
        """Raise Uncountable if the space has more valid strings than a rank can tell apart."""
        if self.size > MOST_RANKS:
            up_to = accumulate(count.valid for count in self.by_length)
            raise Uncountable(
                f"space {self.space.name} has {magnitude(self.size)} valid strings of {self.space.min_layers} to "
                f"{self.space.max_layers} layers, too many to be numbered",
                self.space.min_layers - 1 + sum(size <= MOST_RANKS for size in up_to),
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
        """(lengths,): the least rank of each length. Raises Uncountable if there are too many to number."""
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
    """Count a space. Raises SpaceError if it has budgets, Uncountable if it is too large or ceilings may decide."""
    budgets = [name for name in CEILINGS if getattr(space, name) is not None]
    if budgets:
        raise SpaceError(
            f"space {space.name} has {budgets[0]}: the census counts shapes, not budgets; "
            "search it with --sampler rejection, or leave the budget out"
        )
    automaton = compiled_or_depth(space)
    if isinstance(automaton, int):
        raise Uncountable(
            f"space {space.name} reaches more than {MOST_CELLS // (len(space.layers) + 1):,} shapes within "
            f"{space.max_layers} layers, too many to be counted",
            automaton,
        )
    kinds = _kinds(automaton)
    if space.replacement:
        cells = _cells_of_shapes(space, automaton, kinds)
        by_depth = _reached_by_depth(space, cells)
    else:
        cells = _cells_of_what_is_left(space, automaton, kinds)
        by_depth = [np.arange(low, high) for low, high in pairwise([0, *cells.within[:-1]])]  # each is of one depth
    _require_within_ceilings(space, automaton, kinds, cells, by_depth)
    return Census(space, kinds, cells, _count(space, automaton, kinds, cells, by_depth))


def census_of_shorter(space: SearchSpace, refusal: Uncountable) -> Census:
    """The counts of the lengths from min_layers on that can be counted, of a space that ``census`` refuses so.

    What is not too large for one limit may be so for the next; mostly the first try succeeds. Raises Uncountable
    if there are none.
    """
    while refusal.layers >= space.min_layers:
        try:
            return census(of_lengths(space, space.min_layers, refusal.layers))
        except Uncountable as error:
            refusal = error
    raise refusal


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


def _cells_of_shapes(space: SearchSpace, automaton: Automaton, kinds: Integers) -> _Cells:
    """What the layers lead to from the input on where they may stand twice: a cell is a state of the automaton."""
    every = np.arange(len(automaton.following) // automaton.width)
    targets = _targets(automaton, kinds, every)
    cell_of = np.full(len(every) + 1, NOWHERE)  # each state's; the last is NOWHERE's
    cell_of[0] = 0
    new, within = [every[:1]], [1]  # states that are new at each depth
    for _ in range(1, space.max_layers):
        reached = np.unique(targets[:, new[-1]])
        new.append(reached[(reached != NOWHERE) & (cell_of[reached] == NOWHERE)])
        cell_of[new[-1]] = within[-1] + np.arange(len(new[-1]))
        within.append(within[-1] + len(new[-1]))
    states = np.concatenate(new)
    after = cell_of[targets[:, states]]
    after[(after == NOWHERE) & (targets[:, states] != NOWHERE)] = within[-1]
    left = np.broadcast_to(np.bincount(kinds)[:, None], after.shape)
    return _Cells((*within, within[-1] + 1), states, np.ascontiguousarray(left), after)


def _cells_of_what_is_left(space: SearchSpace, automaton: Automaton, kinds: Integers) -> _Cells:
    """What the layers lead to where each stands once: a cell is a state and how many layers of each kind are left.

    Raises Uncountable if there are too many.
    """
    sizes = np.bincount(kinds)
    states, left = np.zeros(1, np.int64), sizes[None, :]  # of the cells that beginnings of one length reach
    levels, within = [], [1]
    for depth in range(1, space.max_layers):
        targets = np.where(left > 0, _targets(automaton, kinds, states).T, NOWHERE)
        origin, kind = np.nonzero(targets != NOWHERE)
        if len(origin) * len(sizes) > MOST_SORTED:
            raise _too_large(space, depth)
        pairs = np.column_stack((targets[origin, kind], left[origin]))
        pairs[np.arange(len(kind)), 1 + kind] -= 1
        distinct, number = np.unique(pairs, axis=0, return_inverse=True)
        after = np.full(targets.shape, NOWHERE)
        after[origin, kind] = within[-1] + number.reshape(-1)
        levels.append((states, left, after))
        states, left = distinct[:, 0], distinct[:, 1:]
        within.append(within[-1] + len(states))
        if within[-1] * len(sizes) > MOST_ENTRIES:
            raise _too_large(space, depth)
    is_last = (left > 0) & (_targets(automaton, kinds, states).T != NOWHERE)
    levels.append((states, left, np.where(is_last, within[-1], NOWHERE)))
    columns = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    return _Cells((*within, within[-1] + 1), *(np.ascontiguousarray(column.T) for column in columns))


def _too_large(space: SearchSpace, layers: int) -> Uncountable:
    """Strings of ``layers`` layers can be counted, one more is too many."""
    cells = "shapes" if space.replacement else "pairs of a shape with the layers left"
    return Uncountable(
        f"space {space.name} is too large to be counted: strings of {layers + 1} layers lead through too many {cells}",
        layers,
    )


def _reached_by_depth(space: SearchSpace, cells: _Cells) -> list[Integers]:
    """The cells that beginnings of 0, 1, ... max_layers - 1 layers reach. Raises Uncountable if they are too many."""
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


def _targets(automaton: Automaton, kinds: Integers, states: Integers) -> Integers:
    """(kinds, states): the state behind a layer of each kind, or NOWHERE if it is refused."""
    following = automaton.following.take(_of_kinds(automaton, kinds, states))
    return np.where(following == automaton.refused, NOWHERE, following // automaton.width)


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
    """Raise Uncountable if a ceiling of all spaces may decide whether a string is valid.

    What is compared is more than any string costs: the dearest layer of a kind is taken again and again.
    """
    rules, width = space.rules, automaton.width
    limits = np.array([rules.max_parameters, rules.max_macs, rules.max_activation_bytes // BYTES_PER_NUMBER])
    of_layers, of_classifier = (
        np.stack((costs.parameters, costs.macs, costs.numbers)) for costs in (automaton.layers, automaton.classifier)
    )
    of_layers = of_layers.reshape(3, -1, width)[:, :, :-1]  # (3, states, layers): few, cells are many
    of_kinds = np.stack([of_layers[:, :, kinds == kind].max(axis=2) for kind in range(kinds.max() + 1)], axis=1)
    dearest = of_kinds.take(cells.states, axis=2)  # (3, kinds, cells)
    targets = automaton.following.take(_of_kinds(automaton, kinds, cells.states))
    ends = of_classifier[:, targets // width]  # (3, kinds, cells)
    beyond = targets == automaton.beyond
    most = np.zeros((3, cells.within[-1]), np.int64)  # that a beginning in each cell can have cost, each for itself
    for layers, here in enumerate(by_depth):
        kind, place = np.nonzero(cells.after[:, here] != NOWHERE)
        origin = here[place]
        reached = most[:, origin] + dearest[:, kind, origin]
        if (reached + ends[:, kind, origin] > limits[:, None]).any() or beyond[kind, origin].any():
            raise Uncountable(
                f"space {space.name} may hold strings that are beyond the ceilings of every space (of parameters, "
                f"multiply-adds or activations), of {layers + 1} layer{'s' if layers else ''} and more: the census "
                "counts shapes, not budgets",
                layers,
            )
        most = np.zeros_like(most)
        for bound, values in zip(most, reached, strict=True):
            np.maximum.at(bound, cells.after[kind, origin], values)
