"""What a search will find, before it has begun."""

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from search import automaton, forecast
from search.automaton import compiled_or_depth
from search.forecast import Basis, expected
from search.layer_string import format_architecture
from search.samplers import CensusSampler, ListedSampler, RejectionSampler, Sampler
from search.sieve import Drawn, judge_with
from search.space import CLASSIC, SearchSpace

SHORT = replace(CLASSIC, max_layers=3)


def really(sampler: Sampler, draws: int) -> tuple[int, int]:
    """Distinct and valid, as a search counts them."""
    first = {drawn.layers: drawn.verdict.valid for drawn in judge_with(sampler, CLASSIC.rules)(0, draws)}
    return len(first), sum(first.values())


@pytest.fixture
def no_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spaces reach too many shapes."""
    monkeypatch.setattr(automaton, "MOST_CELLS", 1)
    compiled_or_depth.cache_clear()
    yield
    compiled_or_depth.cache_clear()


@pytest.mark.parametrize("draws", [1, 1_000, 40_000])
@pytest.mark.parametrize("space", [CLASSIC, SHORT, replace(CLASSIC, replacement=True)])
def test_a_short_search_is_counted_exactly(space: SearchSpace, draws: int) -> None:
    """By drawing it."""
    sampler = RejectionSampler(space, 3)
    found = forecast.forecast(sampler, space.rules, draws)
    assert (found.distinct, found.valid) == really(sampler, draws)
    assert (found.draws, found.basis) == (draws, Basis.COUNTED)
    strings = {drawn.layers for drawn in judge_with(sampler, space.rules)(0, draws)}
    assert found.characters == pytest.approx(fmean(map(len, strings)))


@pytest.mark.parametrize("begun", [0, 200, 500])
def test_the_sample_is_of_what_is_still_to_be_drawn(begun: int) -> None:
    """Distinct valid candidates, each with its multiply-adds; where all are drawn, of all."""
    found = forecast.forecast(RejectionSampler(CLASSIC, 0), CLASSIC.rules, 500, begun)
    first: dict[str, Drawn] = {}
    for drawn in judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)(0, 500):
        first.setdefault(drawn.layers, drawn)
    later = [d for d in first.values() if d.verdict.valid and (d.index >= begun or begun == 500)]
    assert list(zip(found.sample, found.macs, strict=True)) == [(d.layers, d.verdict.macs) for d in later]


def test_one_by_one_the_sample_is_the_same(request: pytest.FixtureRequest) -> None:
    """However it is counted."""
    sampler = RejectionSampler(CLASSIC, 0)
    at_once = forecast.forecast(sampler, CLASSIC.rules, 6_000, 100)
    request.getfixturevalue("no_table")
    assert forecast.forecast(sampler, CLASSIC.rules, 6_000, 100) == at_once


def test_the_sample_costs_what_the_candidates_cost() -> None:
    """Of 200,000 draws, on average: the first thousand valid ones have a quarter fewer multiply-adds."""
    draws = 200_000
    found = forecast.forecast(RejectionSampler(CLASSIC, 0), CLASSIC.rules, draws)
    first = {d.layers: d.verdict for d in judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)(0, draws)}
    macs = [float(verdict.macs or 0) for verdict in first.values() if verdict.valid]
    error = stdev(macs) / len(found.macs) ** 0.5
    assert abs(fmean(found.macs) - fmean(macs)) < 3 * error
    assert abs(fmean(macs[: len(found.macs)]) - fmean(macs)) > 3 * error


@pytest.mark.usefixtures("no_table")
def test_without_a_table_it_is_counted_one_by_one() -> None:
    """The same numbers."""
    sampler = RejectionSampler(CLASSIC, 1)
    found = forecast.forecast(sampler, CLASSIC.rules, 2_000)
    assert (found.distinct, found.valid) == really(sampler, 2_000)


def test_a_long_search_is_expected_from_the_census(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within what draws scatter: 120,000 draws of 2 to 10 layers, at 5 standard deviations."""
    monkeypatch.setattr(forecast, "MOST_COUNTED", 1_000)
    sampler = RejectionSampler(CLASSIC, 5)
    found = forecast.forecast(sampler, CLASSIC.rules, 120_000)
    assert (found.draws, found.basis) == (120_000, Basis.EXPECTED)
    distinct, valid = really(sampler, 120_000)
    assert abs(found.distinct - distinct) < 5 * (120_000 - distinct) ** 0.5
    assert abs(found.valid - valid) < 5 * valid**0.5


def test_expectations_at_their_ends() -> None:
    """One draw is one distinct string; endless draws are all of them."""
    assert expected(CLASSIC, 1)[0] == pytest.approx(1)
    assert expected(CLASSIC, 10**18) == pytest.approx((4_499_721_590, 140_708_079))
    one = replace(CLASSIC, min_layers=1, max_layers=1, layers=CLASSIC.layers[:1])
    assert expected(one, 5) == (1.0, 1.0)
    deep = replace(CLASSIC, layers=CLASSIC.layers[6:8], replacement=True, min_layers=500, max_layers=1_000)
    assert expected(deep, 10**6) == pytest.approx((10**6, 10**6))  # of up to 2^1000 strings a length


def test_a_space_with_a_budget_is_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its census is refused; the first draws stand for the rest."""
    monkeypatch.setattr(forecast, "MOST_COUNTED", 5_000)
    space = replace(CLASSIC, max_parameters=20_000)
    sampler = RejectionSampler(space, 0)
    found = forecast.forecast(sampler, space.rules, 50_000)
    part = forecast.forecast(sampler, space.rules, 5_000)
    assert found.basis is Basis.SCALED
    assert (found.distinct, found.valid) == (10 * part.distinct, 10 * part.valid)


def test_the_census_has_no_repeats_and_no_rejections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its length."""
    sampler = CensusSampler(CLASSIC, 0)
    found = forecast.forecast(sampler, CLASSIC.rules, 3_000)
    assert (found.distinct, found.valid, found.basis) == (3_000, 3_000, Basis.COUNTED)
    monkeypatch.setattr(forecast, "MOST_COUNTED", 1_000)
    found = forecast.forecast(sampler, CLASSIC.rules, sampler.size)
    assert (found.distinct, found.valid, found.basis) == (sampler.size, sampler.size, Basis.CENSUS)


def test_a_list_is_counted() -> None:
    """Repeats and rejections of what somebody has written down."""
    good, bad = format_architecture(CLASSIC.layers[:1]), format_architecture(CLASSIC.layers[3:4])
    found = forecast.forecast(ListedSampler((good, bad, good)), CLASSIC.rules, 3)
    assert (found.distinct, found.valid, found.sample) == (2, 1, (good,))
