"""A whole search on Ray, with networks that hang, end their process, and fail."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import cloudpickle

from search.candidates import FailureReason, Measurement, Outcome, Status
from search.run import Run, StopRequest
from search.samplers import RejectionSampler
from search.settings import Limits, Recipe, SearchSettings
from search.sieve import judge_with
from search.space import CLASSIC
from storage import queries
from storage.engine import open_for_writing
from storage.store import SqlStore
from tests.stored import candidates
from workers.executors import plan
from workers.ray_cluster import connect, disconnect, resources
from workers.ray_executor import RayExecutor

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test

DRAWS = 60
judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)
VALID = list(dict.fromkeys(drawn.layers for drawn in judge(0, DRAWS) if drawn.verdict.valid))
HANGING, ENDING, FAILING = VALID[1], VALID[4], VALID[7]


class FaultyTrainer:
    """Completes at once, but for three layer strings."""

    def prepare(self) -> "FaultyTrainer":
        return self

    def train(self, layers: str) -> Iterator[Outcome | None]:
        if layers == HANGING:
            time.sleep(3600)
        if layers == ENDING:
            time.sleep(0.1)
            os._exit(7)
        reason = FailureReason.EXCEPTION if layers == FAILING else None
        yield Outcome((Measurement(1, 1.0, 1.0, 0.5),), 0.01, reason, reason and "ValueError: as told")


@pytest.mark.ray
def test_faults_are_outcomes_and_the_others_go_on(tmp_path: Path) -> None:
    """Each fault costs its own candidate, with its reason; every other one is completed, and the search finishes."""
    connect(None, 2)
    engine = open_for_writing(f"sqlite:///{tmp_path / 'search.db'}")
    try:
        limits = Limits(candidates=DRAWS, trial_timeout_s=3.0)
        settings = SearchSettings(CLASSIC, "rejection", 1, 0, "digits", "00", Recipe(), "cpu")
        store = SqlStore.open(engine, "first", settings, limits.candidates)
        store.join()
        executor = RayExecutor(FaultyTrainer(), plan(resources(), "cpu", 2, None))
        assert Run(store, executor, judge, limits, StopRequest())() is None
        with engine.connect() as connection:
            rows = [row for row in candidates(connection, 1) if row.status is not Status.REJECTED]
            blamed = {row.layers: row.reason for row in rows if row.status is Status.FAILED}
            lost = queries.details_of(connection, 1, ENDING)
    finally:
        engine.dispose()
        disconnect()
    assert blamed == {
        HANGING: FailureReason.TIMEOUT,
        ENDING: FailureReason.WORKER_DIED,
        FAILING: FailureReason.EXCEPTION,
    }
    assert Counter(row.layers for row in rows) == Counter(VALID)
    assert {row.layers for row in rows if row.attempts != 1} == {HANGING, ENDING}
    assert {row.attempts for row in rows} == {1, 2}
    assert lost is not None
    assert "ActorDiedError" in str(lost.detail)
