"""The statistics of a report: fronts against brute force, effects against a hand computation."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from search import analysis
from search.analysis import Moments
from search.layer_string import parse
from search.space import CLASSIC

numbers = st.integers(0, 12).map(float)  # few values: many ties
points = st.lists(st.tuples(numbers, numbers), max_size=40)


def columns(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([x for x, _ in pairs], dtype=float), np.array([y for _, y in pairs], dtype=float)


# ------------------------------------------------------------------ fronts and curves


@given(points)
def test_the_front_is_what_brute_force_finds(pairs: list[tuple[float, float]]) -> None:
    """A point is on the front when no other is as good in both and better in one, and no earlier one is equal."""

    def beaten(place: int) -> bool:
        cost, value = pairs[place]
        return any(
            (c <= cost and v >= value and (c, v) != (cost, value)) or ((c, v) == (cost, value) and other < place)
            for other, (c, v) in enumerate(pairs)
        )

    expected = sorted((i for i in range(len(pairs)) if not beaten(i)), key=lambda i: pairs[i])
    assert analysis.pareto_front(*columns(pairs)).tolist() == expected


@given(st.lists(numbers, max_size=40))
def test_best_so_far_steps_where_all_before_are_less(values: list[float]) -> None:
    """An index is a step when every value before it is smaller."""
    expected = [i for i, value in enumerate(values) if all(value > before for before in values[:i])]
    assert analysis.best_so_far(np.array(values)).tolist() == expected


@given(points)
def test_rank_correlation_is_spearmans(pairs: list[tuple[float, float]]) -> None:
    """As scipy computes it, ties included; none where all x or all y are equal."""
    x, y = columns(pairs)
    found = analysis.rank_correlation(x, y)
    if len(pairs) < 2 or len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(x, y).statistic)


@given(st.lists(st.floats(-5, 5), min_size=1))
def test_a_histogram_counts_every_value(values: list[float]) -> None:
    """What lies outside is counted in the outermost bins."""
    found = analysis.histogram(np.array(values), 7, low=-1, high=1)
    assert sum(found.counts) == len(values)
    assert (len(found.edges), len(found.counts)) == (8, 7)


@given(st.integers(0, 300), st.integers(0, 50))
def test_a_spread_has_no_index_twice(count: int, limit: int) -> None:
    """As many as there are, up to the limit, in order, and the same ones each time."""
    found = analysis.spread(count, limit).tolist()
    assert found == sorted(set(found))
    assert len(found) == min(count, limit)
    assert all(0 <= index < count for index in found)


# ------------------------------------------------------------------ moments and effects


@given(st.lists(st.floats(0, 1)), st.lists(st.floats(0, 1)))
def test_moments_add_up(first: list[float], second: list[float]) -> None:
    """Those of two samples are those of both together."""
    found = Moments.of(np.array(first)) + Moments.of(np.array(second))
    expected = Moments.of(np.array(first + second))
    assert found.n == expected.n
    assert (found.mean, found.squares) == pytest.approx((expected.mean, expected.squares), abs=1e-9)


@given(st.floats(1, 1e7))
def test_t_is_students(freedom: float) -> None:
    """As scipy computes it, to five digits, for any degrees of freedom from 1."""
    assert analysis.t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=5e-6)


def test_an_interval_by_hand() -> None:
    """Means 0.8 and 0.5, squared errors 0.01/3 and 0.02/4, 5.000 degrees of freedom, t 2.571."""
    having, lacking = np.array([0.7, 0.8, 0.9]), np.array([0.4, 0.4, 0.5, 0.7])
    found = analysis.effect(Moments.of(having), Moments.of(lacking))
    a, b = 0.02 / 2 / 3, 0.06 / 3 / 4
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(a + b)
    assert found.difference == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))
    assert found.is_clear
    interval = stats.ttest_ind(having, lacking, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@given(st.integers(2, 40), st.integers(2, 40), st.floats(1e-2, 1e2), st.integers(0, 2**32 - 1))
@example(3, 40, 10.0, 0)  # few that vary much beside many that vary little: 2.0 degrees of freedom, not 41
def test_an_interval_is_welchs(having: int, lacking: int, ratio: float, seed: int) -> None:
    """As scipy computes it, whatever the sizes and however much wider one side varies."""
    rng = np.random.default_rng(seed)
    some, others = ratio * rng.normal(size=having), rng.normal(size=lacking)
    found = analysis.effect(Moments.of(some), Moments.of(others))
    interval = stats.ttest_ind(some, others, equal_var=False).confidence_interval()
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(interval.high - interval.low, rel=2e-5)
    assert found.high + found.low == pytest.approx(interval.high + interval.low, abs=1e-9 * (1 + ratio))


@pytest.mark.parametrize(("having", "lacking"), [([], []), ([0.5], []), ([0.5], [0.1, 0.2]), ([0.1, 0.2], [0.3])])
def test_one_value_has_no_interval(having: list[float], lacking: list[float]) -> None:
    """Nor a difference where a side has none."""
    found = analysis.effect(Moments.of(np.array(having)), Moments.of(np.array(lacking)))
    assert (found.low, found.high, found.is_clear) == (None, None, False)
    assert (found.difference is None) == (not having or not lacking)


@pytest.mark.parametrize("value", [1.0, 0.7, 0.1])
def test_values_without_spread_have_no_interval(value: float) -> None:
    """Equal values on both sides say nothing of how much others differ; nor does the rounding of their mean."""
    having = Moments.of(np.full(7, value)) + Moments.of(np.full(3, value))
    found = analysis.effect(having, Moments.of(np.full(11, value - 0.1)))
    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high, found.is_clear) == (None, None, False)


def test_one_side_without_spread_has_an_interval() -> None:
    """That of the side that has some."""
    found = analysis.effect(Moments.of(np.array([1.0, 1.0])), Moments.of(np.array([0.4, 0.5, 0.6])))
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


# ------------------------------------------------------------------ layers

CONV2, CONV4 = ("conv=channel_factor:{},kernel_size:3,stride:1,padding:0-".format(factor) for factor in (2, 4))  # noqa: UP032
DROP = "dropout=p:0.2-"


def test_features_are_kinds_and_the_values_that_tell_layers_apart() -> None:
    """Of the classic space: five kinds, six factors, and two each of the others; a pool's kernel and stride are one."""
    labels = [feature.label for feature in analysis.features_of(CLASSIC.layers)]
    assert len(labels) == 5 + 6 + 2 + 2 + 2 + 2
    assert {"conv", "conv, channel_factor 0.4", "maxpool, kernel_size 2, stride 2", "dropout, p 0.2"} <= set(labels)
    assert not any("padding" in label for label in labels)


def test_layer_effects_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strings with dropout against two without, and by position against those with another layer there."""
    monkeypatch.setattr(analysis, "CHUNK", 3)  # more than one chunk
    layers = parse(CONV2 + CONV4 + DROP)
    strings = [(CONV2 + DROP, 0.9), (DROP + CONV4, 0.7), (CONV2, 0.2), (CONV4 + CONV2, 0.4)]
    found = {e.feature.label: e for e in analysis.layer_effects(layers, analysis.features_of(layers), 2, strings)}
    assert set(found) == {"conv", "conv, channel_factor 2", "conv, channel_factor 4", "dropout"}
    drop = found["dropout"]
    assert (drop.anywhere.having.n, drop.anywhere.lacking.n) == (2, 2)
    assert drop.anywhere.difference == pytest.approx(0.8 - 0.3)
    assert [(at.having.n, at.lacking.n) for at in drop.at] == [(1, 3), (1, 2)]
    assert drop.at[1].difference == pytest.approx(0.9 - (0.7 + 0.4) / 2)
    factor = found["conv, channel_factor 4"].anywhere
    assert factor.difference == pytest.approx((0.7 + 0.4) / 2 - (0.9 + 0.2) / 2)


def test_a_vocabulary_is_the_layers_seen() -> None:
    """Each once, in order of their first appearance; what is no layer is left out."""
    strings = [CONV4 + DROP, "<b>&-" + DROP + CONV2, CONV4.removesuffix("-")]
    assert analysis.vocabulary(strings) == parse(CONV4 + DROP + CONV2)


def test_effects_of_a_list_are_of_the_layers_in_it() -> None:
    """A convolution that no space has is a convolution, and its factor has an effect of its own."""
    other = CONV2.replace("factor:2", "factor:5")
    strings = [(other + DROP, 0.9), (other, 0.7), (DROP, 0.2), (CONV2, 0.4)]
    layers = analysis.vocabulary(text for text, _ in strings)
    found = {e.feature.label: e for e in analysis.layer_effects(layers, analysis.features_of(layers), 2, strings)}
    assert set(found) == {"conv", "conv, channel_factor 2", "conv, channel_factor 5", "dropout"}
    assert (found["conv"].anywhere.having.n, found["conv"].anywhere.lacking.n) == (3, 1)
    assert found["conv"].anywhere.difference == pytest.approx((0.9 + 0.7 + 0.4) / 3 - 0.2)
    assert [at.having.n for at in found["conv, channel_factor 5"].at] == [2, 0]


def test_of_many_features_the_kinds_come_before_values() -> None:
    """However many values a list has, no kind is left out for them; those that are kept keep their order."""
    layers = parse("".join(CONV2.replace("factor:2", f"factor:{n}") for n in range(1, 30)) + DROP)
    features = analysis.features_of(layers)
    labels = [feature.label for feature in analysis.foremost(features, 4)]
    assert labels == ["conv", "conv, channel_factor 1", "conv, channel_factor 2", "dropout"]
    assert analysis.foremost(features, 100) == features


def test_a_layer_that_the_space_does_not_have_counts_as_another_one() -> None:
    """Whatever stands in a database, there is an answer; a layer beyond the positions still counts anywhere."""
    layers = parse(DROP)
    strings = [("<b>&-", 0.1), ("<b>&-" + DROP, 0.5)]
    (found,) = analysis.layer_effects(layers, analysis.features_of(layers), 1, strings)
    assert (found.anywhere.having.n, found.anywhere.lacking.n) == (1, 1)
    assert [(at.having.n, at.lacking.n) for at in found.at] == [(0, 2)]
