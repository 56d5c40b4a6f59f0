"""The edits that mend a rejected string: valid, as stated, and none smaller of their kind, against brute force."""

import re
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search.candidates import RejectionReason
from search.edits import DROP, LONGEST_FOR_PAIRS, SWAP, Edit, factor_for, smallest_edits
from search.layer_string import format_architecture, parse
from search.layers import Architecture, AvgPool, BatchNorm, Conv, Dropout, Layer, MaxPool, Shape, format_layer, plain
from search.samplers import RejectionSampler
from search.shapes import Rules, check
from search.space import CLASSIC

MANY = 10_000
C = "conv=channel_factor:{},kernel_size:3,stride:1,padding:0-"
MAX4, DROPOUT = "maxpool=kernel_size:4,stride:4,padding:0-", "dropout=p:0.2-"
FACTORS = tuple(layer.channel_factor for layer in CLASSIC.layers if isinstance(layer, Conv))

windows = (st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
layers = st.one_of(
    st.builds(Conv, st.sampled_from(["0.25", "0.4", "0.75", "1", "1.5", "2", "3", "30"]).map(Decimal), *windows),
    st.builds(MaxPool, *windows),
    st.builds(AvgPool, *windows),
    st.just(Dropout(Decimal("0.2"))),
    st.just(BatchNorm(Decimal("0.1"))),
)
architectures = st.lists(layers, min_size=1, max_size=5).map(tuple)
rules_of_spaces = st.builds(
    Rules,
    input_shape=st.builds(Shape, st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    channels_within_side=st.booleans(),
    max_parameters=st.sampled_from([60, 500, 10**9]),
    max_macs=st.sampled_from([500, 5_000, 10**13]),
    max_activation_bytes=st.sampled_from([400, 4_000, 2**36]),
)


def singles(edits: list[Edit]) -> list[Edit]:
    return [edit for edit in edits if ", then " not in edit.description]


def with_value(architecture: Architecture, position: int, name: str, value: Decimal | int) -> Architecture:
    changed: Layer = replace(architecture[position], **{name: value})  # type: ignore[arg-type]
    return (*architecture[:position], changed, *architecture[position + 1 :])


def follow(description: str, state: list[tuple[int, Layer]]) -> list[tuple[int, Layer]]:
    """What one edit, read from its words alone, makes of numbered layers."""
    numbers = [number for number, _ in state]
    if match := re.fullmatch(r"drop layer (\d+) \((.*)\)", description):
        position = numbers.index(int(match[1]))
        assert format_layer(state[position][1]) == match[2]
        return state[:position] + state[position + 1 :]
    if match := re.fullmatch(r"swap layers (\d+) and (\d+)", description):
        one, other = (numbers.index(int(number)) for number in match.groups())
        assert other == one + 1
        return [*state[:one], state[other], state[one], *state[other + 1 :]]
    match = re.fullmatch(r"layer (\d+): (\w+) (\S+) -> (\S+)", description)
    assert match
    position, name = numbers.index(int(match[1])), match[2]
    layer = state[position][1]
    assert plain(getattr(layer, name)) == match[3] != match[4]
    value = int(match[4]) if type(getattr(layer, name)) is int else Decimal(match[4])
    return [*state[:position], (int(match[1]), replace(layer, **{name: value})), *state[position + 1 :]]  # type: ignore[arg-type]


# ------------------------------------------------------------------ every edit of every string


@settings(deadline=None)
@given(architectures, rules_of_spaces)
def test_every_edit_is_valid_and_as_stated(architecture: Architecture, rules: Rules) -> None:
    """Each result is a valid, writable, non-empty string, and what its description makes of the given one."""
    edits = smallest_edits(architecture, rules, FACTORS)
    assert not (edits and check(architecture, rules).valid)
    assert [edit.size for edit in edits] == sorted(edit.size for edit in edits)
    assert len({edit.architecture for edit in edits}) == len(edits)
    for edit in edits:
        assert check(edit.architecture, rules).valid
        assert parse(format_architecture(edit.architecture)) == edit.architecture
        state = list(enumerate(architecture))
        for words in edit.description.split(", then "):
            state = follow(words, state)
        assert tuple(layer for _, layer in state) == edit.architecture
        assert tuple(number for number, _ in state) == edit.numbers


@settings(deadline=None)
@given(architectures, rules_of_spaces)
def test_a_nearer_number_of_the_same_parameter_is_not_valid(architecture: Architecture, rules: Rules) -> None:
    """Of whole numbers none, of factors none with as many decimals, nor any other number of channels nearer."""
    for edit in singles(smallest_edits(architecture, rules)):
        if edit.size > 1:
            continue
        position = next(i for i, layer in enumerate(architecture) if layer != edit.architecture[i])
        old, new = architecture[position], edit.architecture[position]
        name = next(f.name for f in fields(old) if getattr(old, f.name) != getattr(new, f.name))
        before, after = getattr(old, name), getattr(new, name)
        unit = Decimal(1).scaleb(min(0, *(int(Decimal(value).as_tuple().exponent) for value in (before, after))))
        distance = int(abs(after - before) / unit)
        for steps in range(1, min(distance, 500)):
            for value in (before - steps * unit, before + steps * unit):
                nearer = int(value) if name != "channel_factor" else value
                if nearer >= (0 if name == "padding" else 1 if name != "channel_factor" else unit):
                    assert not check(with_value(architecture, position, name, nearer), rules).valid


def brute_force(architecture: Architecture, rules: Rules) -> Iterator[tuple[Fraction, int, str]]:
    """Every kind of edit that helps, by trying every number up to 40: size, layer, kind."""
    for i in range(len(architecture)) if len(architecture) > 1 else ():
        if check(architecture[:i] + architecture[i + 1 :], rules).valid:
            yield DROP, i, "drop"
        swapped = (*architecture[:i], *architecture[i : i + 2][::-1], *architecture[i + 2 :])
        if i + 1 < len(architecture) and check(swapped, rules).valid:
            yield SWAP, i, "swap"
    for i, layer in enumerate(architecture):
        for name in ("kernel_size", "stride", "padding"):
            if not hasattr(layer, name):
                continue
            old = getattr(layer, name)
            numbers = sorted(range(0 if name == "padding" else 1, 41), key=lambda n: (abs(n - old), n))
            works = (n for n in numbers if check(with_value(architecture, i, name, n), rules).valid)
            if (new := next(works, None)) is not None:
                yield Fraction(abs(new - old), max(new, old)), i, name


@settings(deadline=None)
@given(architectures, rules_of_spaces)
def test_no_single_edit_is_missed(architecture: Architecture, rules: Rules) -> None:
    """Trying every number of every parameter, every swap and every drop finds the same edits."""
    assume(not check(architecture, rules).valid)
    found = singles(smallest_edits(architecture, rules, limit=MANY))
    expected = sorted(brute_force(architecture, rules))
    results = {(edit.size, *_place(edit)) for edit in found if _tried(edit)}
    missed = [edit for edit in expected if edit not in results]
    for size, i, kind in missed:  # only those whose result another edit has already
        assert size >= SWAP, (size, i, kind)
        result = architecture[:i] + architecture[i + 1 :]
        assert kind == "drop"
        assert result in {edit.architecture for edit in found}
    assert results <= set(expected)


def _tried(edit: Edit) -> bool:
    """Whether brute force would come by it."""
    words = edit.description.split()
    return words[0] in {"drop", "swap"} or (words[2] != "channel_factor" and int(words[-1]) <= 40)


def _place(edit: Edit) -> tuple[int, str]:
    first = re.search(r"\d+", edit.description)
    kind = edit.description.split()[0]
    assert first
    return int(first[0]), kind if kind in {"drop", "swap"} else edit.description.split()[2]


@settings(deadline=None)
@given(architectures, rules_of_spaces)
def test_no_number_of_channels_is_missed(architecture: Architecture, rules: Rules) -> None:
    """A conv without an edit of its factor has no number of output channels up to 200 that helps."""
    verdict = check(architecture, rules)
    assume(not verdict.valid)
    changed = {
        int(edit.description.split()[1][:-1])
        for edit in singles(smallest_edits(architecture, rules, limit=MANY))
        if ": channel_factor " in edit.description
    }
    for i, layer in enumerate(architecture[: len(verdict.shapes)]):
        if isinstance(layer, Conv) and i not in changed:
            for output in range(1, 200):
                factor = factor_for(output, verdict.shapes[i].channels, layer.channel_factor)
                assert not check(with_value(architecture, i, "channel_factor", factor), rules).valid


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.decimals("0.001", "1000", places=3))
def test_a_factor_gives_exactly_the_channels(output: int, channels: int, old: Decimal) -> None:
    """However many channels come in or go out, the factor gives that many, and can be written and read back."""
    layer = Conv(factor_for(output, channels, old), 1, 1, 0)
    assert layer.output_channels(channels) == output
    assert parse(format_layer(layer)) == (layer,)


# ------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("string", "rules", "edits"),
    [
        (C.format("0.4"), Rules(), ["layer 0: channel_factor 0.4 -> 1"]),
        (C.format("0.1"), Rules(Shape(7, 28, 28)), ["layer 0: channel_factor 0.1 -> 0.2"]),
        (MAX4 * 2, Rules(Shape(1, 5, 28)), ["layer 1: kernel_size 4 -> 1"]),
        ("maxpool=kernel_size:9999,stride:1,padding:0-", Rules(), ["layer 0: kernel_size 9999 -> 28",
            "layer 0: padding 0 -> 4986"]),
        ("avgpool=kernel_size:3,stride:1,padding:2-", Rules(), ["layer 0: kernel_size 3 -> 4",
            "layer 0: padding 2 -> 1"]),
        (DROPOUT, Rules(max_parameters=1), []),
    ],
)  # fmt: skip
def test_edits_by_hand(string: str, rules: Rules, edits: list[str]) -> None:
    """Known strings have known edits, the smallest change first."""
    descriptions = [edit.description for edit in smallest_edits(parse(string), rules)]
    assert [words for words in descriptions if words in edits] == edits
    assert bool(descriptions) is bool(edits)


def test_changes_come_before_swaps_before_drops() -> None:
    """A relative change counts at most 1, a swap 2, a drop 3."""
    sizes = [edit.size for edit in smallest_edits(parse(C.format(3) + C.format(4) + MAX4 + C.format("0.4")), Rules())]
    assert sizes[0] == Fraction(1, 2)
    assert sizes[-5:] == [2, 3, 3, 3, 3]


def test_the_nearest_factor_of_the_space_is_proposed_too() -> None:
    """Beside the exact one, so that the string can stay within what a search draws."""
    edits = smallest_edits(parse(C.format("0.4") + DROPOUT), Rules(), FACTORS)
    assert [edit.description for edit in edits][:2] == [
        "layer 0: channel_factor 0.4 -> 1",
        "layer 0: channel_factor 0.4 -> 2",
    ]


@pytest.mark.parametrize("budget", ["max_parameters", "max_macs", "max_activation_bytes"])
def test_a_string_over_budget_is_mended(budget: str) -> None:
    """Whichever budget it is that the network as a whole breaks."""
    limits = {"max_parameters": 10_000, "max_macs": 20_000, "max_activation_bytes": 6_000}
    rules = replace(Rules(), **{budget: limits[budget]})  # type: ignore[arg-type]
    architecture = parse(C.format(3) + DROPOUT)
    assert check(architecture, rules).reason is RejectionReason.OVER_BUDGET
    assert any("channel_factor 3 -> " in edit.description for edit in smallest_edits(architecture, rules))


def test_pairs_only_where_no_single_edit_helps() -> None:
    """Two faults apart from each other take two edits; layers keep the numbers of the given string."""
    architecture = parse(MAX4 + MAX4 + C.format("0.4") + C.format(2) + DROPOUT)
    descriptions = [edit.description for edit in smallest_edits(architecture, Rules())]
    assert all(words.count(", then ") == 1 for words in descriptions)
    assert descriptions[0] == "layer 2: channel_factor 0.4 -> 1, then layer 0: stride 4 -> 1"
    assert any(
        words.startswith("drop layer 2") and "then layer 3: kernel_size 3 -> 1" in words for words in descriptions
    )
    assert not smallest_edits(architecture + parse(DROPOUT) * LONGEST_FOR_PAIRS, Rules())


def test_nothing_is_proposed_where_nothing_was_found() -> None:
    """Three faults take three edits, which are not sought; a valid string needs none."""
    impossible = parse((MAX4 * 3 + C.format(2)) * 2)
    assert smallest_edits(impossible, Rules(Shape(1, 1, 1))) == []
    assert smallest_edits(parse(DROPOUT), Rules()) == []


def test_the_limit_keeps_the_smallest() -> None:
    """Fewer edits are the first of all."""
    architecture = parse(C.format(3) + C.format(4) + MAX4 + C.format("0.4"))
    assert smallest_edits(architecture, Rules(), limit=3) == smallest_edits(architecture, Rules())[:3]


def test_strings_of_the_classic_space_are_answered_fast() -> None:
    """A hundred draws of up to ten layers take milliseconds each; the bound is twenty times that."""
    draws = list(RejectionSampler(CLASSIC, 0).draw(0, 100))
    began = time.perf_counter()
    for architecture in draws:
        smallest_edits(architecture, CLASSIC.rules, FACTORS)
    assert time.perf_counter() - began < 10


def test_a_string_as_long_as_can_be_is_answered() -> None:
    """The layers tried are bounded, so thousands of them cost no more than reading them some hundred times."""
    smallest = smallest_edits(parse(DROPOUT * 4000 + C.format("0.4")), Rules())[0]
    assert smallest.description == "layer 4000: channel_factor 0.4 -> 1"
