"""What a finished or running search says: fronts, effects, curves - pure statistics over what was recorded.

Where candidates are drawn at random, what a layer goes with can be estimated by plain averages. They
remain associations: strings that could not be built are not in the comparison, and what stands
beside a layer in a string is not held fixed. Averages over a list that somebody chose describe that
list alone. Nothing here reads a database or draws a figure.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from decimal import Decimal
from itertools import islice
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from search.errors import LayerStringError
from search.layer_string import parse
from search.layers import Architecture, Layer, format_layer, plain

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

CONFIDENCE = 0.95
ENDED, UNKNOWN = -1, -2  # in place of a layer: the string has none here; it is none of those that are compared
ROUNDING = 1e-12  # of a mean, relative: far above that of a million additions, far below one image's share
CHUNK = 8_192  # strings whose layers are compared at once


# ------------------------------------------------------------------ fronts and curves


def pareto_front(cost: Floats, value: Floats) -> Integers:
    """Indices of the points that no other one beats: none costs less or the same and is worth more.

    In order of cost, and so of value. Of equal points the first stands for all.
    """
    order = np.lexsort((np.arange(len(cost)), -value, cost))
    ordered = value[order]
    before = np.concatenate(([-np.inf], np.maximum.accumulate(ordered)[:-1])) if len(order) else ordered
    return np.asarray(order[ordered > before], dtype=np.int64)


def best_so_far(value: Floats) -> Integers:
    """Indices at which the value is greater than all before it: the steps of the best-so-far curve."""
    before = np.concatenate(([-np.inf], np.maximum.accumulate(value)[:-1])) if len(value) else value
    return np.flatnonzero(value > before)


def rank_correlation(x: Floats, y: Floats) -> float | None:
    """Spearman's rho, -1 to 1: Pearson's correlation of the ranks, ties sharing their mean rank.

    C. Spearman (1904), The proof and measurement of association between two things. None where it is not
    defined: fewer than two points, or all x or all y equal.
    """
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    mean = last - (size - 1) / 2
    return np.asarray(mean[group], dtype=np.float64)


@dataclass(frozen=True)
class Histogram:
    """How many values lie between each edge and the next; the last edge belongs to the last bin."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def histogram(values: Floats, bins: int, *, low: float, high: float, logarithmic: bool = False) -> Histogram:
    """Counts in ``bins`` bins from ``low`` to ``high``, of equal width or, ``logarithmic``, of equal ratio."""
    edges = np.geomspace(low, high, bins + 1) if logarithmic else np.linspace(low, high, bins + 1)
    counts, _ = np.histogram(np.clip(values, low, high), edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def spread(count: int, limit: int) -> Integers:
    """Up to ``limit`` of the indices 0 to ``count`` - 1, evenly spread; a random order makes it a random sample."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)) if count else np.arange(0)


# ------------------------------------------------------------------ moments and their difference


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of a sample; two samples' moments add up to those of both."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of (value - mean)^2

    @classmethod
    def of(cls, values: Floats) -> "Moments":
        """Of an array."""
        if not len(values):
            return cls()
        mean = float(values.mean())
        return cls(len(values), mean, float(((values - mean) ** 2).sum()))

    def __add__(self, other: "Moments") -> "Moments":
        """T. F. Chan, G. H. Golub, R. J. LeVeque (1979), Updating formulae for computing sample variances."""
        if not self.n or not other.n:
            return self if self.n else other
        n, step = self.n + other.n, other.mean - self.mean
        mean = self.mean + step * other.n / n
        return Moments(n, mean, self.squares + other.squares + step**2 * self.n * other.n / n)

    @property
    def variance_of_mean(self) -> float:
        """Squared standard error of the mean; needs two values."""
        return self.squares / (self.n - 1) / self.n

    @property
    def is_constant(self) -> bool:
        """Whether all values are equal, but for the rounding of their mean."""
        return self.squares <= self.n * (ROUNDING * self.mean) ** 2


@dataclass(frozen=True)
class Effect:
    """How the mean of those with something differs from the mean of those without."""

    having: Moments
    lacking: Moments
    low: float | None = None  # ends of the difference's interval; None: fewer than two on a side, or all equal on both
    high: float | None = None

    @property
    def difference(self) -> float | None:
        """Mean with, less mean without; None where a side has nobody."""
        return self.having.mean - self.lacking.mean if self.having.n and self.lacking.n else None

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def effect(having: Moments, lacking: Moments) -> Effect:
    """The difference of two means, with Welch's interval at ``CONFIDENCE``: the variances may differ.

    B. L. Welch (1947), The generalization of 'Student's' problem when several different population
    variances are involved, Biometrika 34, 28-35; degrees of freedom after F. E. Satterthwaite (1946).
    No interval where neither side has any spread to tell it from.
    """
    if having.n < 2 or lacking.n < 2 or (having.is_constant and lacking.is_constant):
        return Effect(having, lacking)
    a, b = having.variance_of_mean, lacking.variance_of_mean
    difference = having.mean - lacking.mean
    freedom = (a + b) ** 2 / (a**2 / (having.n - 1) + b**2 / (lacking.n - 1))
    half = t_quantile(freedom) * math.sqrt(a + b)
    return Effect(having, lacking, difference - half, difference + half)


def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """The t with which Student's distribution has ``confidence`` of its mass between -t and t.

    With t = sqrt(v) tan(angle) the density is proportional to cos(angle)^(v - 1), which is summed up by the
    midpoint rule (to 6 digits); above 1,000 degrees of freedom the normal quantile and its first correction
    (Abramowitz and Stegun 26.7.5). ``freedom`` is at least 1.
    """
    if freedom > 1_000:
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        return z + (z**3 + z) / (4 * freedom)
    steps = 100_000
    width = math.pi / 2 / steps
    mass = np.cumsum(np.cos((np.arange(steps) + 0.5) * width) ** (freedom - 1))
    angle = np.interp(confidence * mass[-1], np.concatenate(([0.0], mass)), np.arange(steps + 1) * width)
    return math.sqrt(freedom) * math.tan(angle)


# ------------------------------------------------------------------ effects of layers


@dataclass(frozen=True)
class Feature:
    """What a string can have: a layer of some kind, or one with some value of a parameter."""

    kind: str
    value: str | None  # such as 'p 0.2'; None: any layer of the kind
    layers: frozenset[int]  # that have it, by their places in the list of layers that are compared

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.kind}, {self.value}" if self.value else self.kind


def vocabulary(strings: Iterable[str]) -> Architecture:
    """The layers of those strings, each once, in order of appearance; what no parser reads is left out.

    For strings that somebody listed: they may hold any layer, not only those of a space.
    """
    texts: dict[str, None] = {}
    for string in strings:
        texts.update(dict.fromkeys(string.removesuffix("-").split("-")))
    found: dict[Layer, None] = {}
    for text in texts:
        with suppress(LayerStringError):
            found.update(dict.fromkeys(parse(text)))
    return tuple(found)


def features_of(layers: Sequence[Layer]) -> list[Feature]:
    """The kinds of those layers, each followed by those of its parameters' values that tell some apart.

    Values that always stand together, such as a pool's kernel and stride, are one feature.
    """
    found = []
    for kind in dict.fromkeys(layer.kind for layer in layers):
        members = {place: layer for place, layer in enumerate(layers) if layer.kind == kind}
        found.append(Feature(kind, None, frozenset(members)))
        names: dict[frozenset[int], list[str]] = {}
        for name in [f.name for f in fields(next(iter(members.values())))]:
            having: dict[Decimal | int, list[int]] = {}
            for place, layer in members.items():
                having.setdefault(getattr(layer, name), []).append(place)
            if len(having) > 1:
                for value in sorted(having):
                    names.setdefault(frozenset(having[value]), []).append(f"{name} {plain(value)}")
        found += [Feature(kind, ", ".join(values), having_all) for having_all, values in names.items()]
    return found


def foremost(features: Sequence[Feature], limit: int) -> list[Feature]:
    """Up to ``limit`` features, in their order: the kinds first of all, then the first of the values."""
    kept = sorted(range(len(features)), key=lambda place: features[place].value is not None)[:limit]
    return [features[place] for place in sorted(kept)]


@dataclass(frozen=True)
class LayerEffects:
    """What goes with a feature: anywhere in a string, and at each position."""

    feature: Feature
    anywhere: Effect  # strings that have it against those that do not
    at: tuple[Effect, ...]  # by position from 0: strings that have it there against those with another layer there


def layer_effects(
    layers: Sequence[Layer],
    features: Sequence[Feature],
    positions: int,
    strings: Iterable[tuple[str, float]],
) -> list[LayerEffects]:
    """What goes with each of some ``layers``' features, from (canonical layer string, value) pairs, read in chunks.

    A layer in a string that is none of ``layers`` has no feature: give the space's, or the ``vocabulary`` of a list.
    Only the first ``positions`` positions are told apart. Memory does not grow with the number of strings.
    """
    members = [_membership(feature, len(layers)) for feature in features]
    anywhere = [(Moments(), Moments()) for _ in features]
    at = [[(Moments(), Moments())] * positions for _ in features]
    for codes, values in _coded(layers, positions, strings):
        there = codes != ENDED
        for number, member in enumerate(members):
            has = member[codes]
            somewhere: Mask = np.logical_or.reduce(has, axis=1)
            anywhere[number] = _added(anywhere[number], values, somewhere, ~somewhere)
            for p in range(positions):
                at[number][p] = _added(at[number][p], values, has[:, p], there[:, p] & ~has[:, p])
    return [
        LayerEffects(feature, effect(*anywhere[number]), tuple(effect(*pair) for pair in at[number]))
        for number, feature in enumerate(features)
    ]


def _membership(feature: Feature, count: int) -> Mask:
    """By a layer's code whether it has the feature; ENDED and UNKNOWN, counted from the end, do not."""
    member = np.zeros(count - min(ENDED, UNKNOWN), dtype=np.bool_)
    member[list(feature.layers)] = True
    return member


Pair = tuple[Moments, Moments]


def _added(pair: Pair, values: Floats, having: Mask, lacking: Mask) -> Pair:
    return pair[0] + Moments.of(values[having]), pair[1] + Moments.of(values[lacking])


def _coded(
    layers: Sequence[Layer], positions: int, strings: Iterable[tuple[str, float]]
) -> Iterator[tuple[Integers, Floats]]:
    """Chunks of strings as their layers' places in ``layers``, a row a string, and the values."""
    places = {format_layer(layer): place for place, layer in enumerate(layers)}
    remaining = iter(strings)
    while chunk := list(islice(remaining, CHUNK)):
        split = [string.removesuffix("-").split("-") for string, _ in chunk]
        codes = np.full((len(chunk), max(positions, *map(len, split))), ENDED, dtype=np.int64)
        for row, texts in enumerate(split):
            codes[row, : len(texts)] = [places.get(text, UNKNOWN) for text in texts]
        yield codes, np.array([value for _, value in chunk], dtype=np.float64)
