"""The smallest edits that make a rejected architecture valid: what to change, swap or drop.

An edit changes one parameter of one layer, swaps two neighbours, or drops a layer. Every single edit that
makes the whole string valid is found, each parameter with the nearest number that does; only where there
is none, pairs of edits. ``check`` has the last word on each. An empty architecture is never proposed.

How small an edit is: a change counts |new - old| / max(new, old), above 0 and up to 1; a swap counts 2, a
drop 3, a pair the sum of its two. Equal ones come in the order of the layers.

The work is bounded. Nothing behind the failing layer can mend it, so edits are tried at that layer and the
``LAYERS_BACK`` before it; a whole number is sought up to ``MOST_DISTANCE`` beside the nearest that could do.
The first edit of a pair is one of the ``MOST_FIRST`` smallest that let the walk get past the failing rule, or
shorten the string; its second is any single edit. Strings longer than ``LONGEST_FOR_PAIRS`` get no pairs.

Not covered: three edits or more, new layers, and the space's list and lengths (``check`` ignores them too).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from search.candidates import RejectionReason
from search.layers import LARGEST_SIDE, Architecture, Conv, Layer, Pool, Shape, format_layer, plain
from search.shapes import MOST_PARAMETERS, Rules, Verdict, check

MOST_EDITS = 20  # as many as a person reads
LAYERS_BACK = 24
MOST_DISTANCE = 128
MOST_FIRST = 12
LONGEST_FOR_PAIRS = 25
MOST_PLACES = 12  # decimals taken over from an old factor, so that the new one is short enough to be read back

SWAP = Fraction(2)
DROP = Fraction(3)

WINDOW = ("kernel_size", "stride", "padding")

# Channels do not depend on sides, nor sides on channels: no other parameter can mend the rejection.
MENDING = {
    RejectionReason.CHANNELS_EXCEED_SIDE: ("channel_factor", *WINDOW),
    RejectionReason.CHANNELS_BELOW_ONE: ("channel_factor",),
    RejectionReason.PADDING_EXCEEDS_HALF_KERNEL: WINDOW,
    RejectionReason.KERNEL_EXCEEDS_INPUT: WINDOW,
    RejectionReason.OVER_BUDGET: ("channel_factor", *WINDOW),
}

TOO_SMALL = {RejectionReason.CHANNELS_EXCEED_SIDE, RejectionReason.KERNEL_EXCEEDS_INPUT}  # a side is

Trouble = Callable[[Architecture], RejectionReason | None]  # what is still wrong; None: the edit does


@dataclass(frozen=True)
class Edit:
    """One edit, or two, and what they make of an architecture."""

    description: str  # for a person; layers have the numbers that they had in the given architecture
    architecture: Architecture  # the result
    size: Fraction  # how much is changed, as the module says
    numbers: tuple[int, ...]  # of each layer of the result: its position in the given architecture

    def then(self, description: str, architecture: Architecture, size: Fraction, numbers: tuple[int, ...]) -> "Edit":
        """This edit and one more."""
        both = f"{self.description}, then {description}" if self.description else description
        return Edit(both, architecture, self.size + size, numbers)


def smallest_edits(
    architecture: Architecture, rules: Rules, factors: Sequence[Decimal] = (), limit: int = MOST_EDITS
) -> list[Edit]:
    """The smallest edits that make a rejected architecture valid, at most ``limit``, the smallest first.

    ``factors`` are the channel factors that a space lists: the nearest of them that does is proposed
    as well. Empty for a valid architecture, and where neither one edit nor a pair was found.
    """
    if check(architecture, rules).valid:
        return []
    given = Edit("", architecture, Fraction(0), tuple(range(len(architecture))))
    singles = _singles(given, rules, factors, lambda layers: check(layers, rules).reason)
    return _distinct(singles)[:limit] or _distinct(_pairs(given, rules, factors))[:limit]


def _distinct(edits: Iterable[Edit]) -> list[Edit]:
    """By size; of edits with the same result the smallest."""
    results: dict[Architecture, Edit] = {}
    for edit in sorted(edits, key=lambda edit: edit.size):
        results.setdefault(edit.architecture, edit)
    return list(results.values())


# ------------------------------------------------------------------ one edit, two edits


def _singles(draft: Edit, rules: Rules, factors: Sequence[Decimal], trouble: Trouble) -> Iterator[Edit]:
    """The edits of a rejected draft, one of each kind at each layer, that leave no trouble."""
    verdict = check(draft.architecture, rules)
    failing = _failing(verdict)
    for position in range(max(0, failing - LAYERS_BACK), failing + 1):
        yield from _changes(draft, position, verdict, factors, trouble)
        for edit in (_swapped(draft, position), _dropped(draft, position)):
            if edit is not None and trouble(edit.architecture) is None:
                yield edit


def _pairs(given: Edit, rules: Rules, factors: Sequence[Decimal]) -> Iterator[Edit]:
    layers = given.architecture
    if len(layers) > LONGEST_FOR_PAIRS:
        return
    ahead = _ahead(check(layers, rules), layers)

    def still_stuck(edited: Architecture) -> RejectionReason | None:
        verdict = check(edited, rules)
        return None if len(edited) < len(layers) or _ahead(verdict, edited) < ahead else verdict.reason

    for first in _distinct(_singles(given, rules, factors, still_stuck))[:MOST_FIRST]:
        yield from _singles(first, rules, factors, lambda edited: check(edited, rules).reason)


def _failing(verdict: Verdict) -> int:
    """The last layer at which an edit can help: the failing one, or where the walk over budget ended."""
    return len(verdict.shapes) - 2 if verdict.layer is None else verdict.layer


def _ahead(verdict: Verdict, layers: Architecture) -> tuple[int, int]:
    """How many layers the walk did not get through, and how many rules at the failing one: in the order of progress."""
    rules_ahead = -list(RejectionReason).index(verdict.reason) if verdict.reason else 0
    return (0 if verdict.layer is None else len(layers) - verdict.layer), rules_ahead


# ------------------------------------------------------------------ the three kinds of edit


def _dropped(draft: Edit, position: int) -> Edit | None:
    layers, numbers = draft.architecture, draft.numbers
    if len(layers) == 1:
        return None
    return draft.then(
        f"drop layer {numbers[position]} ({format_layer(layers[position])})",
        layers[:position] + layers[position + 1 :],
        DROP,
        numbers[:position] + numbers[position + 1 :],
    )


def _swapped(draft: Edit, position: int) -> Edit | None:
    if position + 1 == len(draft.architecture):
        return None
    order = [*range(position), position + 1, position, *range(position + 2, len(draft.architecture))]
    one, other = draft.numbers[position : position + 2]
    return draft.then(
        f"swap layers {one} and {other}",
        tuple(draft.architecture[i] for i in order),
        SWAP,
        tuple(draft.numbers[i] for i in order),
    )


def _changes(
    draft: Edit, position: int, verdict: Verdict, factors: Sequence[Decimal], trouble: Trouble
) -> Iterator[Edit]:
    """Each parameter of a layer with the nearest number that leaves no trouble."""
    layers, layer, reason = draft.architecture, draft.architecture[position], verdict.reason

    def changed(name: str, value: Decimal | int) -> Architecture:
        new: Layer = replace(layer, **{name: value})  # type: ignore[arg-type]  # an int for what takes an int
        return (*layers[:position], new, *layers[position + 1 :])

    def trouble_with(name: str, value: Decimal | int) -> RejectionReason | None:
        return trouble(changed(name, value))

    for name in MENDING[reason] if reason else ():
        for values in _candidates(layer, name, verdict.shapes[position], reason, factors, trouble_with):
            value = next((value for value in values if trouble_with(name, value) is None), None)
            if value is not None:
                old = getattr(layer, name)
                yield draft.then(
                    f"layer {draft.numbers[position]}: {name} {plain(old)} -> {plain(value)}",
                    changed(name, value),
                    Fraction(abs(value - old)) / Fraction(max(value, old)),
                    draft.numbers,
                )


# ------------------------------------------------------------------ numbers for a parameter


def _candidates(
    layer: Layer,
    name: str,
    shape: Shape,
    reason: RejectionReason | None,
    factors: Sequence[Decimal],
    trouble_with: Callable[[str, Decimal | int], RejectionReason | None],
) -> Iterator[Iterable[Decimal | int]]:
    """Series of numbers to try for a parameter, each from the nearest on; none if the layer does not have it."""
    if isinstance(layer, Conv) and name == "channel_factor":
        more = reason is RejectionReason.CHANNELS_BELOW_ONE
        yield _exact_factors(layer, shape.channels, more, lambda factor: trouble_with(name, factor))
        yield sorted(factors, key=lambda factor: abs(factor - layer.channel_factor))
    if isinstance(layer, Conv | Pool) and name in WINDOW:
        low, high = _useful(layer, name, shape)
        if reason is RejectionReason.OVER_BUDGET and isinstance(layer, Conv) and name == "kernel_size":
            yield _around(layer.kernel_size, low, high)  # larger: more weights, smaller: more numbers after it
        else:
            yield _one_way(layer, name, low, high, reason, lambda number: trouble_with(name, number))


def _useful(layer: Conv | Pool, name: str, shape: Shape) -> tuple[int, int]:
    """From where to where a window's parameter can do and makes a difference, on an input of ``shape``."""
    pool = isinstance(layer, Pool)
    if name == "kernel_size":
        return max(1, 2 * layer.padding if pool else 1), min(shape.height, shape.width) + 2 * layer.padding
    if name == "stride":  # one step beyond the side is like every longer one
        return 1, max(1, max(shape.height, shape.width) + 2 * layer.padding - layer.kernel_size + 1)
    return 0, layer.kernel_size // 2 if pool else int(LARGEST_SIDE)


def _around(old: int, low: int, high: int) -> Iterator[int]:
    """The numbers from ``low`` to ``high`` but ``old``, the nearest to it first, of two as near the smaller."""
    start = min(max(old, low), high)
    for distance in range(MOST_DISTANCE + 1):
        for number in (start - distance, start + distance) if distance else (start,):
            if low <= number <= high and number != old:
                yield number


def _one_way(
    layer: Conv | Pool,
    name: str,
    low: int,
    high: int,
    reason: RejectionReason | None,
    trouble_with: Callable[[int], RejectionReason | None],
) -> Iterator[int]:
    """The numbers that mend ``reason``, from the nearest on: they lie on one side of the old one.

    Smaller kernels and strides and more padding make every later side larger, which mends what is too
    small and nothing else; so the nearest is found by bisection. A budget may want one further on.
    """
    old = getattr(layer, name)
    larger_sides = reason in TOO_SMALL
    up = (name == "padding") is larger_sides
    numbers = range(max(old + 1, low), high + 1) if up else range(min(old - 1, high), low - 1, -1)
    unmended = TOO_SMALL if larger_sides else {reason}
    found = bisect_left(numbers, True, key=lambda number: trouble_with(number) not in unmended)
    for number in numbers[found : found + MOST_DISTANCE]:
        yield number
        if trouble_with(number) is not RejectionReason.OVER_BUDGET:
            return


def _exact_factors(
    layer: Conv, channels: int, more: bool, trouble_with: Callable[[Decimal], RejectionReason | None]
) -> Iterator[Decimal]:
    """The factor for the nearest number of output channels that is enough, or (``more`` false) not too many.

    More channels never mend what has too many, nor fewer what has too few, so that the numbers that do are
    a range, and the nearest is found by bisection.
    """
    old = layer.output_channels(channels)

    def factor(output: int) -> Decimal:
        return factor_for(output, channels, layer.channel_factor)

    if more:
        outputs = range(old + 1, MOST_PARAMETERS + 1)
        found = bisect_left(
            outputs, True, key=lambda n: trouble_with(factor(n)) is not RejectionReason.CHANNELS_BELOW_ONE
        )
        yield from map(factor, outputs[found : found + 1])
    else:
        outputs = range(1, min(old, MOST_PARAMETERS + 1))
        found = bisect_left(
            outputs, True, key=lambda n: trouble_with(factor(n)) not in {None, RejectionReason.CHANNELS_BELOW_ONE}
        )
        yield from map(factor, outputs[max(found - 1, 0) : found])


def factor_for(output: int, channels: int, old: Decimal) -> Decimal:
    """The factor nearest to ``old`` that makes ``channels`` into ``output`` channels, exactly.

    It has as many decimals as ``old``, or as many more as it takes: output / channels may have no end.
    """
    places = min(max(0, -int(old.as_tuple().exponent)), MOST_PLACES)
    while True:
        scale = 10**places
        lowest = -(-output * scale // channels)
        highest = -(-(output + 1) * scale // channels) - 1
        if lowest <= highest:
            return Decimal(lowest if old * scale < lowest else highest).scaleb(-places)
        places += 1
