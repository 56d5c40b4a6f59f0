"""What a search will find, before it has begun."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from search import automaton, forecast
from search.automaton import compiled_or_depth
from search.forecast import Basis, draws_until, expected, of_first
from search.layer_string import format_architecture
from search.samplers import CensusSampler, ListedSampler, RejectionSampler, Sampler
from search.sieve import judge_with
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


def test_the_sample_is_of_distinct_valid_candidates() -> None:
    """The first of them, each with its multiply-adds."""
    found = forecast.forecast(RejectionSampler(CLASSIC, 0), CLASSIC.rules, 500)
    first = {drawn.layers: drawn.verdict for drawn in judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)(0, 500)}
    assert dict(zip(found.sample, found.macs, strict=True)) == {s: v.macs for s, v in first.items() if v.valid}


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


@pytest.mark.parametrize("space", [CLASSIC, SHORT])
def test_of_counted_draws_any_beginning_is_known(space: SearchSpace) -> None:
    """As if only that had been drawn; and the fewest draws that hold so many valid ones."""
    sampler = RejectionSampler(space, 3)
    found = forecast.forecast(sampler, space.rules, 3_000)
    for draws in (1, 77, 2_999):
        part = of_first(found, sampler, draws)
        assert (part.draws, part.distinct, part.valid) == (draws, *really(sampler, draws))
    draws = draws_until(found, sampler, 50)
    assert [really(sampler, draws + more)[1] for more in (-1, 0)] == [49, 50]
    assert draws_until(found, sampler, 0) == 0
    assert draws_until(found, sampler, found.valid + 1) == 3_000


def test_beyond_what_is_counted_a_beginning_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same rules as the whole: expected, from the census, or scaled."""
    monkeypatch.setattr(forecast, "MOST_COUNTED", 1_000)
    sampler = RejectionSampler(CLASSIC, 5)
    found = forecast.forecast(sampler, CLASSIC.rules, 2**63 - 1)
    draws = draws_until(found, sampler, 10**6)
    assert round(expected(CLASSIC, draws)[1]) == 10**6
    assert of_first(found, sampler, draws).basis is Basis.EXPECTED
    census = CensusSampler(CLASSIC, 0)
    assert draws_until(forecast.forecast(census, CLASSIC.rules, census.size), census, 10**7) == 10**7
    budget = replace(CLASSIC, max_parameters=20_000)
    sampler = RejectionSampler(budget, 0)
    found = forecast.forecast(sampler, budget.rules, 50_000)
    assert of_first(found, sampler, 25_000).valid == pytest.approx(found.valid / 2, abs=1)
    assert draws_until(found, sampler, found.valid // 2) == pytest.approx(25_000, abs=found.draws / found.valid)


def test_of_a_list_the_draw_of_its_nth_valid_string_is_known() -> None:
    """Rejected and repeated ones before it included."""
    first, second, bad = (format_architecture(CLASSIC.layers[i : i + 1]) for i in (0, 1, 3))
    sampler = ListedSampler((bad, first, first, second, bad))
    found = forecast.forecast(sampler, CLASSIC.rules, 5)
    assert draws_until(found, sampler, 2) == 4
    assert of_first(found, sampler, 3).distinct == 2
