"""The compiled checker gives the scalar checker's verdicts, for whole batches."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import automaton as module
from search.automaton import Automaton, architectures, compiled, compiled_or_depth
from search.candidates import RejectionReason
from search.errors import SpaceError
from search.layer_string import parse
from search.layers import Architecture, Shape
from search.samplers import RejectionSampler
from search.shapes import check
from search.space import CLASSIC, SearchSpace

LAYERS = [
    *(f"conv=channel_factor:{f},kernel_size:{k},stride:{s},padding:{p}" for f, k, s, p in
      [("2", 3, 1, 0), ("0.4", 3, 1, 1), ("7.5", 5, 2, 2), ("1000000000", 1, 1, 10000), ("1", 10000, 1, 0)]),
    "batchnorm=eps:0.001", "dropout=p:0.5", "dropout=p:0",
    *(f"{kind}=kernel_size:{k},stride:{s},padding:{p}" for kind in ("avgpool", "maxpool")
      for k, s, p in [(2, 2, 0), (3, 1, 1), (2, 1, 2), (1, 1, 0)]),
]  # fmt: skip


def automaton_of(space: SearchSpace) -> Automaton:
    found = compiled(space)
    assert found is not None
    return found


def require_equal(space: SearchSpace, batch: list[Architecture]) -> set[RejectionReason | None]:
    """Every field of every verdict; the reasons that were met."""
    automaton = automaton_of(space)
    verdicts = automaton.check(automaton.positions(batch))
    expected = [check(architecture, space.rules) for architecture in batch]
    assert list(verdicts.scalar()) == expected
    assert verdicts.valid.tolist() == [verdict.valid for verdict in expected]
    assert verdicts.parameters.tolist() == [verdict.parameters or 0 for verdict in expected]
    assert verdicts.macs.tolist() == [verdict.macs or 0 for verdict in expected]
    assert verdicts.layers.tolist() == [-1 if v.layer is None else v.layer for v in expected]
    return {verdict.reason for verdict in expected}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces of any kinds of layers, sides, budgets and rules."""
    layers = tuple(parse(text)[0] for text in draw(st.lists(st.sampled_from(LAYERS), min_size=1, unique=True)))
    replacement = draw(st.booleans())
    most = draw(st.integers(1, 8 if replacement else len(layers)))
    budgets = {
        name: draw(st.none() | st.integers(1, most_of))
        for name, most_of in (("max_parameters", 10**5), ("max_macs", 10**7), ("max_activation_bytes", 10**6))
    }
    return SearchSpace(
        name="wild",
        input_shape=Shape(draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(1, 40))),
        classes=draw(st.integers(1, 1_000_000)),
        min_layers=1,
        max_layers=most,
        replacement=replacement,
        channels_within_side=draw(st.booleans()),
        layers=layers,
        **budgets,
    )


@settings(max_examples=150, deadline=None)
@given(spaces(), st.integers(0, 2**63 - 1))
def test_verdicts_equal_the_scalar_checkers(space: SearchSpace, seed: int) -> None:
    """Of any space, whatever its layers, rules and budgets: verdict, trace, reason, layer, detail and costs."""
    require_equal(space, RejectionSampler(space, seed).draw(0, 60))


def test_every_reason_was_compared() -> None:
    """The comparison would be empty of meaning if it met valid strings only."""
    space = replace(CLASSIC, layers=tuple(parse(text)[0] for text in LAYERS), min_layers=1)
    reasons = require_equal(space, RejectionSampler(space, 0).draw(0, 3_000))
    assert reasons == {None, *RejectionReason}


def test_all_classic_strings_of_up_to_four_layers() -> None:
    """26,404 strings, one after the other."""
    space = replace(CLASSIC, min_layers=1, max_layers=4)
    batch = [strings for n in range(1, 5) for strings in itertools.permutations(space.layers, n)]
    assert len(batch) == 26_404
    require_equal(space, batch)


def test_classic_draws_of_ten_layers() -> None:
    """The space that people search, as it is searched."""
    require_equal(CLASSIC, RejectionSampler(CLASSIC, 1).draw(0, 10_000))


def test_the_classic_space_reaches_555_shapes() -> None:
    """So the table is small; the figure of the literature study."""
    assert len(automaton_of(CLASSIC).shapes) == 555


def test_an_empty_batch_has_no_verdicts() -> None:
    """Nothing in, nothing out."""
    assert list(automaton_of(CLASSIC).check(np.zeros((0, 10), np.int64)).scalar()) == []


def test_the_end_of_a_batch_is_checked_as_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are looked at once."""
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    require_equal(CLASSIC, RejectionSampler(CLASSIC, 2).draw(0, 30))


def test_costs_beyond_64_bits_are_over_budget() -> None:
    """A factor of 10^9 twice: exact in the scalar checker, cut off in the table, and over budget in both."""
    factor = "conv=channel_factor:1000000000,kernel_size:1,stride:1,padding:0"
    space = replace(CLASSIC, layers=(*parse(factor), *parse("dropout=p:0.5")), min_layers=1, max_layers=2)
    space = replace(space, channels_within_side=False, replacement=True, input_shape=Shape(1, 1, 1), classes=10**6)
    assert require_equal(space, [a for n in (1, 2) for a in itertools.product(space.layers, repeat=n)]) == {
        None,
        RejectionReason.OVER_BUDGET,
    }


def test_a_space_of_too_many_shapes_has_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, instead of taking all memory."""
    monkeypatch.setattr(module, "MOST_CELLS", 555 * 15 - 1)
    compiled_or_depth.cache_clear()
    assert compiled(CLASSIC) is None
    depth = compiled_or_depth(CLASSIC)
    assert isinstance(depth, int)
    assert 1 < depth < CLASSIC.max_layers
    assert isinstance(compiled_or_depth(replace(CLASSIC, max_layers=depth)), Automaton)
    assert compiled_or_depth(replace(CLASSIC, max_layers=depth + 1)) == depth
    monkeypatch.setattr(module, "MOST_CELLS", 555 * 15)
    compiled_or_depth.cache_clear()
    assert compiled(CLASSIC) is not None


def test_positions_are_where_layers_stand_in_the_space() -> None:
    """There and back; a layer that the space does not hold has none."""
    automaton = automaton_of(CLASSIC)
    batch = RejectionSampler(CLASSIC, 3).draw(0, 50)
    assert architectures(CLASSIC, automaton.positions(batch)) == batch
    with pytest.raises(SpaceError, match="no place for dropout="):
        automaton.positions([parse("dropout=p:0.9-")])
    with pytest.raises(SpaceError, match="up to 10 layers"):
        automaton.positions([CLASSIC.layers[:11]])
