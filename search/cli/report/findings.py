"""What a report says of a search, before it is figures or words: read from the database in one snapshot."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from search import analysis
from search.analysis import Floats, Integers, LayerEffects
from search.samplers import ListedSampler
from storage import queries, summary
from storage.queries import CandidateDetails, FailureCount, SearchRow, Standing
from storage.summary import Completed, Detail, Example, Run, Stretch

if TYPE_CHECKING:
    from sqlalchemy import Connection

BEST = 10  # candidates with their strings and loss curves
MOST_POINTS = 4_000  # of a scatter plot; the fronts and the best always, then an even sample in draw order
MOST_FEATURES = 60  # kinds and parameter values whose effects are shown
MOST_POSITIONS = 16  # of a layer in a string, that are told apart
MOST_RUNS = 20  # the last ones
MOST_DETAILS = 20  # what failures say, the most frequent
STRETCHES = 60  # of the draws, in order


@dataclass(frozen=True)
class Trained:
    """The completed candidates in draw order, a number each; NaN where a number is missing."""

    index: Integers  # at which it was first drawn
    parameters: Floats
    macs: Floats  # multiply-adds per image
    train_loss: Floats  # after the last epoch
    val_loss: Floats
    val_accuracy: Floats  # 0 to 1
    seconds: Floats  # in training
    ended: Floats  # when, in seconds of UTC since 1970

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Findings:
    """All that a report says of one search. Places are positions in ``trained``."""

    search: SearchRow
    standing: Standing
    database: str  # its URL, without a password
    at: datetime  # the moment of the snapshot, by this machine's clock
    run_count: int
    runs: list[Run]  # the last MOST_RUNS
    attempts: dict[str | None, int]  # in flight (None), or ended otherwise than by completing
    failures: list[FailureCount]
    examples: list[Example]
    details: list[Detail]  # the MOST_DETAILS most frequent
    stretches: list[Stretch]
    trained: Trained
    best: list[CandidateDetails]  # BEST of them, with loss curves
    steps: Integers  # places at which the best so far was raised
    parameters_front: Integers  # places, by growing cost
    macs_front: Integers
    shown: Integers  # places that the scatter plots show
    strings: dict[int, str]  # layer strings of ``shown``, by index
    features_left_out: int
    effects: list[LayerEffects]

    @property
    def is_listed(self) -> bool:
        """Whether somebody chose the strings; else they are drawn at random."""
        return self.search.settings.sampler == ListedSampler.name


def gather(connection: "Connection", name: str, database: str) -> Findings:
    """Read what a report needs. Raises UnknownSearch."""
    search = queries.require(connection, name)
    standing = queries.standing(connection, search.id)
    space = search.settings.space
    listed = queries.listed(connection, search.id)
    layers = analysis.vocabulary(listed) if listed else space.layers
    features = analysis.features_of(layers)
    positions = max((text.count("-") for text in listed), default=space.max_layers)
    columns = [array("d") for _ in Completed._fields[2:]]
    indices = array("q")
    effects = analysis.layer_effects(
        layers,
        analysis.foremost(features, MOST_FEATURES),
        min(positions, MOST_POSITIONS),
        _noting(summary.completed(connection, search.id), indices, columns),
    )
    trained = Trained(np.array(indices, dtype=np.int64), *(np.array(column, dtype=np.float64) for column in columns))
    best = [queries.details(connection, search.id, row.index) for row in queries.ranked(connection, search.id, BEST)]
    steps = analysis.best_so_far(trained.val_accuracy)
    fronts = [_front(cost, trained.val_accuracy) for cost in (trained.parameters, trained.macs)]
    ranking = np.flatnonzero(np.isin(trained.index, [found.candidate.index for found in best if found]))
    shown = _shown(len(trained), np.concatenate([*fronts, ranking, steps]))
    return Findings(
        search=search,
        standing=standing,
        database=database,
        at=datetime.now(UTC),
        run_count=summary.count_runs(connection, search.id),
        runs=summary.runs(connection, search.id, MOST_RUNS),
        attempts=summary.attempts(connection, search.id),
        failures=queries.failures(connection, search.id),
        examples=summary.examples(connection, search.id),
        details=summary.failure_details(connection, search.id, MOST_DETAILS),
        stretches=summary.stretches(connection, search.id, standing.counts.drawn, STRETCHES),
        trained=trained,
        best=[found for found in best if found],
        steps=steps,
        parameters_front=fronts[0],
        macs_front=fronts[1],
        shown=shown,
        strings=queries.layer_strings(connection, search.id, trained.index[shown].tolist()),
        features_left_out=max(0, len(features) - MOST_FEATURES),
        effects=effects,
    )


def _noting(
    rows: Iterator[Completed], indices: "array[int]", columns: "list[array[float]]"
) -> Iterator[tuple[str, float]]:
    """Strings and accuracies, the numbers noted as they pass."""
    for row in rows:
        indices.append(row.draw_index)
        for column, value in zip(columns, row[2:], strict=True):
            column.append(float("nan") if value is None else value)
        yield row.layers, row.val_accuracy


def _shown(count: int, always: Integers) -> Integers:
    """Places of the points that are drawn: those that always are, and an even sample of the rest."""
    always = np.unique(always)
    others = np.setdiff1d(np.arange(count), always)
    sample = others[analysis.spread(len(others), max(0, MOST_POINTS - len(always)))]
    return np.union1d(always, sample)


def _front(cost: Floats, accuracy: Floats) -> Integers:
    """Places of the Pareto front, of those whose cost is known."""
    known = np.flatnonzero(np.isfinite(cost))
    return known[analysis.pareto_front(cost[known], accuracy[known])]
