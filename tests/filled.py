"""A search with every kind of row, and losses that are made up: what questions are tested with."""

import math
import random
from dataclasses import replace

from sqlalchemy import Engine

from search.candidates import FailureReason, Interruption, Measurement, Outcome
from search.messages import Task
from search.run import News
from search.samplers import RejectionSampler
from search.settings import Recipe, SearchSettings
from search.sieve import judge_with
from search.space import CLASSIC
from storage.store import SqlStore

RECIPE = Recipe(epochs=3)
SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 7, "digits", "00", RECIPE, "cpu")
FAILURES = (FailureReason.NON_FINITE_LOSS, FailureReason.EXCEPTION, FailureReason.TIMEOUT)


def fill(engine: Engine, name: str = "filled", draws: int = 600, still_open: int = 5, epochs: int = 3) -> int:
    """Draw candidates from the classic space and end them with made-up losses, some failed; the search's id."""
    settings = replace(SETTINGS, recipe=Recipe(epochs=epochs))
    store = SqlStore.open(engine, name, settings, target=draws)
    store.join()
    while store.extend(draws, judge_with(RejectionSampler(CLASSIC, settings.seed), CLASSIC.rules)):
        pass
    numbers = random.Random(name)
    while (left := store.counts().open - still_open) > 0:
        tasks = [replace(task, attempt=1, begun=1) for task in store.claim(min(left, 64), held=()).tasks]
        store.record(News(dispatched=tasks))
        store.record(News(outcomes=[(task, made_up(task, numbers, epochs)) for task in tasks]))
    for task in store.claim(1, held=()).tasks:
        tried = replace(task, attempt=1, begun=1)
        store.record(News(dispatched=[tried]))
        store.record(News(attempts=[(tried, Interruption.WORKER_UNAVAILABLE, "node <b>lost</b>")]))
    store.leave("asked to")
    return store.search_id


def made_up(task: Task, numbers: random.Random, epochs: int) -> Outcome:
    """Losses that fall; one in eight fails."""
    fails = numbers.random() < 1 / 8
    skill = numbers.random()
    curve = tuple(
        Measurement(
            epoch,
            2.3 * math.exp(-skill * epoch),
            2.3 * math.exp(-skill * epoch) + 0.1,
            round(1 - 0.9 * math.exp(-skill * epoch), 3),
        )
        for epoch in range(1, epochs + 1)
    )
    if fails:
        return Outcome(curve[:1], numbers.random(), numbers.choice(FAILURES), 'it said "<no>", & ended')
    return Outcome(curve, 1 + numbers.random())
