"""The checker compiled to a table: whole batches of architectures checked as array look-ups.

The shapes that a space can reach are few (555 for the classic one), and what a layer does depends on its
input's shape alone. So the walk of ``shapes.py`` is a finite automaton: a state a shape, a letter a layer.
It is compiled once, by asking ``shapes.step`` about every pair of them (a cell), and then a batch takes one
look-up a layer. ``tests/search/test_automaton.py`` holds its verdicts against the scalar checker's.

A batch of architectures is an array (B, max_layers) of positions in the space's list of layers, in which
``len(space.layers)`` stands behind an architecture's end.

Not covered: spaces of more than MOST_CELLS cells, for which ``compiled`` gives None and the scalar checker
does; layers that are not in the space's list, which have no position.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from search.candidates import RejectionReason
from search.errors import SpaceError
from search.layer_string import format_architecture
from search.layers import Architecture, Rejected, Shape
from search.shapes import BYTES_PER_NUMBER, MOST_ELEMENTS, Rules, Verdict, check, step
from search.space import SearchSpace

MOST_CELLS = 500_000  # one or two seconds to compile
ROWS_AT_ONCE = 8_192  # of a batch: what is computed of them stays in a core's cache
REASONS = tuple(RejectionReason)
VALID = -1  # instead of a position in REASONS
OVER_BUDGET = REASONS.index(RejectionReason.OVER_BUDGET)
LARGEST_COST = 10**15  # of one layer in a table: above every ceiling, and a thousand of them fit in 63 bits

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Costs:
    """What layers cost, each array with an entry a cell or a state; no entry exceeds LARGEST_COST."""

    parameters: Integers
    macs: Integers  # per image
    numbers: Integers  # of the output for one image, float32 each


@dataclass(frozen=True, eq=False)
class Automaton:
    """A space's checker as a table. A layer in a state is cell ``state * width + position``.

    Two more states follow those of the shapes, which no layer leaves: ``refused``, after a layer that cannot
    take its input, and ``beyond``, after one whose output has more than MOST_ELEMENTS.
    """

    space: SearchSpace
    shapes: tuple[Shape, ...]  # of each state; the input's is the first
    following: Integers  # (cells,), the first cell of the next state
    reasons: npt.NDArray[np.int8]  # (cells,), position in REASONS of why a layer is refused, or VALID
    details: dict[int, str]  # of the cells that refuse
    layers: Costs  # of each cell
    classifier: Costs  # of each state, and zeros for the two that follow

    @property
    def width(self) -> int:
        """Cells of a state: one a layer, and a last one behind an architecture's end, where it stays."""
        return len(self.space.layers) + 1

    @property
    def refused(self) -> int:
        """The first cell of the state ``refused``."""
        return len(self.shapes) * self.width

    @property
    def beyond(self) -> int:
        """The first cell of the state ``beyond``."""
        return self.refused + self.width

    def check(self, positions: Integers) -> "Verdicts":
        """The verdicts of a batch (B, max_layers), equal to the scalar checker's."""
        starts = range(0, max(1, len(positions)), ROWS_AT_ONCE)
        parts = [self._check(positions[start : start + ROWS_AT_ONCE]) for start in starts]
        whole = parts[0] if len(parts) == 1 else [np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)]
        return Verdicts(self, positions, *whole)

    def _check(self, positions: Integers) -> tuple[Integers, ...]:
        """Of a few rows: the fields of Verdicts that follow ``positions``."""
        rows, most_layers = positions.shape
        cells = np.empty((most_layers, rows), np.int64)
        first, passed = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        for depth in range(most_layers):
            np.add(first, positions[:, depth], out=cells[depth])
            first = self.following.take(cells[depth])
            passed += first != self.refused
        reasons = np.full(rows, VALID, np.int64)
        refused, built = np.flatnonzero(first == self.refused), np.flatnonzero(first != self.refused)
        reasons[refused] = self.reasons.take(cells[passed[refused], refused])
        walks, ends = cells.take(built, axis=1), first.take(built) // self.width
        parameters, macs, numbers = (
            of_layers.take(walks).sum(axis=0) + of_classifier.take(ends)
            for of_layers, of_classifier in zip(_arrays(self.layers), _arrays(self.classifier), strict=True)
        )
        over = first.take(built) == self.beyond
        over |= _exceeds(parameters, macs, numbers, self.space.rules)
        reasons[built[over]] = OVER_BUDGET
        passed[built] = VALID
        costs = np.zeros((2, rows), np.int64)
        costs[:, built] = np.where(over, 0, (parameters, macs))
        return reasons, passed, costs[0], costs[1], cells

    def positions(self, architectures: Sequence[Architecture]) -> Integers:
        """Architectures as a batch (B, max_layers). Raises SpaceError for one that the space has no place for."""
        space = self.space
        place = {layer: position for position, layer in enumerate(space.layers)}
        batch = np.full((len(architectures), space.max_layers), self.width - 1, np.int64)
        for row, architecture in zip(batch, architectures, strict=True):
            strange = [layer for layer in architecture if layer not in place]
            if strange:
                raise SpaceError(f"space {space.name} has no place for {format_architecture((strange[0],))}")
            if len(architecture) > space.max_layers:
                raise SpaceError(f"space {space.name} has strings of up to {space.max_layers} layers")
            row[: len(architecture)] = [place[layer] for layer in architecture]
        return batch


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What the checker found of a batch of B architectures."""

    automaton: Automaton
    positions: Integers  # (B, max_layers)
    reasons: Integers  # (B,), positions in REASONS, or VALID
    layers: Integers  # (B,), the failing layer, counted from 0; -1 where none failed
    parameters: Integers  # (B,), weights and biases, classifier included; 0 where rejected
    macs: Integers  # (B,), multiply-adds per image, classifier included; 0 where rejected
    cells: Integers  # (max_layers, B), those of the walks

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """(B,): whether each can be built and keeps the rules."""
        return np.equal(self.reasons, VALID)

    def scalar(self) -> Iterator[Verdict]:
        """Each verdict as the scalar checker gives it."""
        automaton, end = self.automaton, self.automaton.width - 1
        shapes, space = automaton.shapes, automaton.space
        states = (automaton.following.take(self.cells) // automaton.width).T.tolist()
        failed = self.cells[self.layers, np.arange(len(self.layers))].tolist()
        walks = zip(self.positions.tolist(), states, failed, strict=True)
        found = zip(*(a.tolist() for a in (self.reasons, self.layers, self.parameters, self.macs)), strict=True)
        for (positions, walk, cell), (reason, layer, parameters, macs) in zip(walks, found, strict=True):
            if reason == OVER_BUDGET:  # its detail has exact numbers, however large
                yield check(tuple(space.layers[p] for p in positions if p < end), space.rules)
                continue
            passed = layer if layer >= 0 else positions.index(end) if positions[-1] == end else len(positions)
            trace = (shapes[0], *[shapes[state] for state in walk[:passed]])
            if reason == VALID:
                yield Verdict(trace, parameters=parameters, macs=macs)
            else:
                yield Verdict(trace, REASONS[reason], layer, automaton.details[cell])


def architectures(space: SearchSpace, positions: Integers) -> list[Architecture]:
    """A batch (B, max_layers) of positions as architectures."""
    layers, end = space.layers, len(space.layers)
    return [tuple(layers[p] for p in row if p < end) for row in positions.tolist()]


def _arrays(costs: Costs) -> tuple[Integers, Integers, Integers]:
    return costs.parameters, costs.macs, costs.numbers


def _exceeds(parameters: Integers, macs: Integers, numbers: Integers, rules: Rules) -> npt.NDArray[np.bool_]:
    """Where a budget of the space is exceeded."""
    return (
        (parameters > rules.max_parameters)
        | (macs > rules.max_macs)
        | (numbers * BYTES_PER_NUMBER > rules.max_activation_bytes)
    )


# ------------------------------------------------------------------ compiling


def compiled(space: SearchSpace) -> Automaton | None:
    """The automaton of a space; None if it would have more than MOST_CELLS cells."""
    found = compiled_or_depth(space)
    return found if isinstance(found, Automaton) else None


@lru_cache(maxsize=8)
def compiled_or_depth(space: SearchSpace) -> Automaton | int:
    """The automaton of a space; if it would have more than MOST_CELLS cells, the most layers with which it has not."""
    width, rules = len(space.layers) + 1, space.rules
    shapes, depths, number = [space.input_shape], [0], {space.input_shape: 0}
    refusals: dict[int, Rejected] = {}
    targets: dict[int, int | None] = {}  # state after a cell; None: beyond
    costs: dict[int, tuple[int, int, int]] = {}
    for state, shape in enumerate(shapes):  # it grows meanwhile
        if len(shapes) * width > MOST_CELLS:
            return depths[-1] - 1  # the shapes that so many layers reach come before these, and are few enough
        if depths[state] == space.max_layers:  # nothing follows it
            continue
        for cell, layer in enumerate(space.layers, state * width):
            try:
                after = step(layer, shape, rules)
            except Rejected as rejected:
                refusals[cell] = rejected
                continue
            costs[cell] = layer.parameters(shape), layer.macs(shape), after.elements
            if after.elements > MOST_ELEMENTS:
                targets[cell] = None
                continue
            if after not in number:
                number[after] = len(shapes)
                shapes.append(after)
                depths.append(depths[state] + 1)
            targets[cell] = number[after]
    return _tabulated(space, shapes, refusals, targets, costs)


def _tabulated(
    space: SearchSpace,
    shapes: Sequence[Shape],
    refusals: dict[int, Rejected],
    targets: dict[int, int | None],
    costs: dict[int, tuple[int, int, int]],
) -> Automaton:
    width, states = len(space.layers) + 1, len(shapes) + 2
    following = np.repeat(np.arange(states) * width, width)  # behind an end, and from the last two: stay
    reasons = np.full(states * width, VALID, np.int8)
    of_layers = np.zeros((3, states * width), np.int64)
    for cell, refusal in refusals.items():
        following[cell], reasons[cell] = (states - 2) * width, REASONS.index(refusal.reason)
    for cell, target in targets.items():
        following[cell] = (states - 1 if target is None else target) * width
        of_layers[:, cell] = [min(cost, LARGEST_COST) for cost in costs[cell]]
    of_classifier = np.zeros((3, states), np.int64)
    for state, shape in enumerate(shapes):
        features, classes = shape.elements, space.classes
        exact = (features * classes + classes, features * classes, classes)
        of_classifier[:, state] = [min(cost, LARGEST_COST) for cost in exact]
    details = {cell: refusal.detail for cell, refusal in refusals.items()}
    layers, classifier = Costs(*of_layers), Costs(*of_classifier)
    return Automaton(space, tuple(shapes), following, reasons, details, layers, classifier)
