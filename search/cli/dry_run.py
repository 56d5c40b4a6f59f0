"""netsieve run --dry-run: what a search will cost, before anything is started or written.

How many candidates its draws hold comes from ``search/forecast.py``, exactly where that can be told. How long
their training takes is measured: a few of them, from the cheapest to the dearest, are trained here for some
steps; that says what --max-completed and --max-time are worth.
Not covered: other processors than this one's, a GPU that workers share, and candidates that fail.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from search.candidates import FailureReason, Status
from search.cli.output import cell, columns, tell
from search.cli.results import reading
from search.coordinator import cost
from search.forecast import Basis, Forecast, forecast
from search.messages import Task
from search.run import Counts
from search.samplers import sampler_of
from search.settings import Limits, SearchSettings

if TYPE_CHECKING:
    from workers.datasets import Dataset

PROBES = 20  # candidates that are trained for a moment
STEPS = 25  # training batches of each

# Bytes of a database: fitted to 48,061 distinct candidates, 10,007 of them completed after 1, 10 and 30 epochs, on
# SQLite 3.40.1. Postgres 18.4 took 1.16 times as many for the ten million of tests/benchmarks/README.md.
EMPTY_BYTES = 131_072  # of the tables, before anything is in them
CANDIDATE_BYTES = 460  # of any, its digest and indexes included
ENDED_BYTES = 400  # more, of one that was trained
EPOCH_BYTES = 60  # of its curve
POSTGRES = 1.16


@dataclass(frozen=True)
class Seconds:
    """What training a candidate takes here, by its full recipe, on one thread or on the GPU."""

    mean: float  # over the candidates that the probes stand for
    least: float  # of the probes
    most: float
    probes: int


@dataclass(frozen=True)
class Begun:
    """How a search stands before the run, its --retry applied."""

    counts: Counts
    retried: int = 0  # candidates that had failed, and are open again

    @property
    def ended(self) -> int:
        """Valid candidates that are not trained any more."""
        return self.counts.completed + self.counts.failed


def begun(url: str, name: str, counts: Counts, retry: Collection[FailureReason]) -> Begun:
    """How a search that exists will stand once the run has opened what failed for the reasons of --retry."""
    from storage import queries

    with reading(url) as connection:
        failures = queries.failures(connection, queries.require(connection, name).id, queries.By.REASON)
    retried = sum(row.candidates for row in failures if row.status is Status.FAILED and row.reason in retry)
    return Begun(replace(counts, failed=counts.failed - retried, open=counts.open + retried), retried)


def print_costs(
    name: str,
    settings: SearchSettings,
    listed: Sequence[str],
    dataset: "Dataset",
    limits: Limits,
    before: Begun,
    workers: int | str,
    *,
    is_postgres: bool,
) -> None:
    """Say what a search costs to its end, and what the limits of this run are worth.

    ``workers`` train at once, at the speed of this machine; or why nobody knows how many. Raises what drawing raises.
    """
    found = forecast(sampler_of(settings, listed), settings.space.rules, limits.candidates, before.counts.drawn)
    to_train = before.counts.open + max(0, found.valid - before.ended - before.counts.open)
    tell(f"training a moment of {min(PROBES, len(found.sample))} candidates, to see how long they take here")
    seconds = probe(settings, dataset, found) if found.sample else None
    rows = list(_counts(found, before, to_train))
    if seconds:
        rows += _times(seconds, to_train, workers, settings.recipe.epochs)
    rows += _limits(limits, before, seconds, workers)
    size = EMPTY_BYTES + max(found.distinct, before.counts.distinct) * CANDIDATE_BYTES
    size += (before.ended + to_train) * (ENDED_BYTES + EPOCH_BYTES * settings.recipe.epochs)
    rows.append(("database", _bytes(size * (POSTGRES if is_postgres else 1)), "about, when all is done"))
    click.echo(f"search {name}, dry run: nothing was started or written")
    for line in columns(("", "", ""), rows):
        if line:
            click.echo(line)


def _counts(found: Forecast, before: Begun, to_train: int) -> Iterator[tuple[str, str, str]]:
    how = {
        Basis.COUNTED: "exactly: every draw was made",
        Basis.CENSUS: "exactly: the census repeats and rejects nothing",
        Basis.EXPECTED: "expected, from the exact counts of the space",
        Basis.SCALED: "scaled up from its first draws; repeats among the rest are not seen",
    }[found.basis]
    yield "draws", cell(found.draws), ""
    yield "distinct", cell(found.distinct), how
    yield "valid", cell(found.valid), f"{found.valid / found.draws:.1%} of the draws"
    if before.counts.drawn:
        is_open, again = before.counts.open - before.retried, before.retried
        retried = f", {again:,} to be tried again" if again else ""
        new = to_train - before.counts.open
        yield "to train", cell(to_train), f"{is_open:,} open{retried}, {new:,} to be drawn; {before.ended:,} have ended"


def _times(seconds: Seconds, to_train: int, workers: int | str, epochs: int) -> Iterator[tuple[str, str, str]]:
    probes = f"{seconds.probes} probes took {_number(seconds.least)} to {_number(seconds.most)} s"
    yield "a training", f"{_number(seconds.mean)} s", f"mean; {probes}, for {epochs} epochs"
    hours = seconds.mean * to_train / 3600
    yield "worker-hours", _number(hours), "on a processor like this one, with a core for each"
    if isinstance(workers, str):
        yield "hours", "unknown", workers
    else:
        rate = f"{_number(3600 * workers / seconds.mean)} trainings an hour"
        yield "hours", _number(hours / workers), f"with {workers} worker{'' if workers == 1 else 's'}: {rate}"


def _limits(
    limits: Limits, before: Begun, seconds: Seconds | None, workers: int | str
) -> Iterator[tuple[str, str, str]]:
    """What each limit of the run is worth: --max-completed in hours, --max-time in trainings."""
    unknown = "no training could be timed" if seconds is None else str(workers)
    a_second = workers / seconds.mean if seconds and isinstance(workers, int) else None  # trainings
    if limits.max_completed is not None:
        option, left = (
            f"--max-completed {limits.max_completed:,}",
            max(0, limits.max_completed - before.counts.completed),
        )
        if a_second:
            hours = f"{_number(left / a_second / 3600)} hours"
            yield option, hours, f"for the {left:,} to come, if none fails and there are so many"
        else:
            yield option, "unknown", unknown
    if limits.max_time_s is not None:
        option = f"--max-time {limits.max_time_s:g} s"
        if a_second:
            yield option, f"{int(limits.max_time_s * a_second):,} trainings", "what is in training then is finished"
        else:
            yield option, "unknown", unknown
    if limits.target_accuracy is not None:
        yield f"--target-accuracy {limits.target_accuracy:g}", "unknown", "the run ends once a candidate reaches it"
    if seconds and seconds.most > limits.trial_timeout_s:
        yield f"--trial-timeout {limits.trial_timeout_s:g} s", "too short", "for some, which fail after two tries"


def probe(settings: SearchSettings, dataset: "Dataset", found: Forecast) -> Seconds | None:
    """Train some of the sampled candidates for a moment, and say what the whole recipe would take.

    They are the middle ones of equal parts of the sample, ordered by cost; each stands for its part. None if all fail.
    """
    from workers.training import Trainer

    recipe = settings.recipe
    images = min(recipe.train_images, -(-STEPS * recipe.batch_size * 5 // 4))
    short = replace(recipe, train_images=images, epochs=1)
    trainer = Trainer(
        dataset.first(images), settings.space.rules, short, settings.seed, settings.device,
        version=settings.training_version,
    ).prepare()  # fmt: skip
    sampled = zip(found.sample, found.macs, strict=True)
    costs = sorted((cost(Task(0, layers, macs)), layers) for layers, macs in sampled)
    count = min(PROBES, len(costs))
    parts = [costs[i * len(costs) // count : (i + 1) * len(costs) // count] for i in range(count)]
    *_, _warmed_up = trainer.train(parts[0][0][1])
    factor = recipe.epochs * recipe.train_images / images
    measured, total, stood_for = [], 0.0, 0
    for part in parts:
        of_probe, layers = part[len(part) // 2]
        *_, outcome = trainer.train(layers)
        assert outcome is not None
        if outcome.reason:  # a time that a failure took is no measurement
            continue
        stood_for += len(part)
        measured.append(outcome.seconds * factor)
        total += measured[-1] * sum(of_each for of_each, _ in part) / of_probe
    return Seconds(total / stood_for, min(measured), max(measured), len(measured)) if measured else None


def _bytes(count: float) -> str:
    power = min(4, int(math.log10(max(count, 1000))) // 3)
    return f"{_number(count / 1000**power)} {('', 'kB', 'MB', 'GB', 'TB')[power]}"


def _number(value: float) -> str:
    """With two digits, or more where it is large."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
