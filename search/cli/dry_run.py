"""netsieve run --dry-run: what a search will cost, before anything is started or written.

How many candidates its draws hold comes from ``search/forecast.py``, exactly where that can be told. How long
their training takes is measured: a few of them, from the cheapest to the dearest, are trained here for some
steps; that says what --max-completed and --max-time are worth.
Not covered: what else the machine does, other processors than this one's, a GPU that workers share, the seconds
in which Ray starts, and candidates that fail.
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

# Bytes of a database on SQLite 3.40.1, fitted to searches of 5,000 to 20,000 distinct candidates of 2 to 4, 2 to 10 and
# 9 to 10 layers, with none and with thousands of them completed after 1, 10 and 30 epochs; each within 15 %. Postgres
# 18.4 took 1.16 times as many for the ten million of tests/benchmarks/README.md.
EMPTY_BYTES = 131_072  # of the tables, before anything is in them
CANDIDATE_BYTES = 140  # of any, its digest and indexes included, ...
CHARACTER_BYTES = 1.1  # ... and of each character of its layer string
ENDED_BYTES = 330  # more, of one that was trained
EPOCH_BYTES = 50  # of its curve
POSTGRES = 1.16

# Of the coordinator, which draws while workers train (tests/benchmarks/README.md).
DRAW_S = 6e-6  # a draw, checked and made a row
INSERT_S = 40e-6  # a distinct one, put into a large table

UNITS = ((365 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes"), (1, "s"))


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
    rows = list(_counts(found, before, to_train))
    if to_train:
        seconds = _timed(settings, dataset, found)
        new = max(0, found.distinct - before.counts.distinct)
        drawing_s = DRAW_S * (found.draws - before.counts.drawn) + INSERT_S * new
        rows += _times(seconds, to_train, workers, settings.recipe.epochs, drawing_s)
        rows += _limits(limits, before.counts.completed, seconds, to_train, workers)
    distinct, ended = max(found.distinct, before.counts.distinct), before.ended + to_train
    size = database_bytes(distinct, found.characters, ended, settings.recipe.epochs) * (POSTGRES if is_postgres else 1)
    rows.append(("database", _bytes(size), "about, when all is done"))
    click.echo(f"search {name}, dry run: nothing was started or written")
    for line in columns(("", "", ""), rows):
        if line:
            click.echo(line)


def _timed(settings: SearchSettings, dataset: "Dataset", found: Forecast) -> Seconds | None:
    """What trainings take; None if there is nothing to try, as where valid strings are too rare, or every try fails."""
    if not found.sample:
        return None
    tell(f"training a moment of {min(PROBES, len(found.sample))} candidates, to see how long they take here")
    return probe(settings, dataset, found)


def database_bytes(distinct: int, characters: float, ended: int, epochs: int) -> float:
    """Of an SQLite file with so many distinct candidates, of so many characters each, and so many that were trained."""
    rows = distinct * (CANDIDATE_BYTES + CHARACTER_BYTES * characters)
    return EMPTY_BYTES + rows + ended * (ENDED_BYTES + EPOCH_BYTES * epochs)


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


def _times(
    seconds: Seconds | None, to_train: int, workers: int | str, epochs: int, drawing_s: float
) -> Iterator[tuple[str, str, str]]:
    if seconds is None:
        yield "a training", "unknown", "none could be timed"
        return
    probes = f"{seconds.probes} probes took {duration(seconds.least)} to {duration(seconds.most)}"
    yield "a training", duration(seconds.mean), f"mean; {probes}, for {epochs} epochs"
    worker_s = seconds.mean * to_train
    yield "worker time", duration(worker_s), "on a processor like this one, with a core for each"
    if isinstance(workers, str):
        yield "time", "unknown", workers
    else:
        rate = f"{_number(3600 * workers / seconds.mean)} trainings an hour"
        how = f"with {workers} worker{'' if workers == 1 else 's'}: {rate}"
        how += "; drawing takes longer" if drawing_s > worker_s / workers else ""
        yield "time", duration(max(drawing_s, worker_s / workers)), how
    yield "drawing", duration(drawing_s), "of that, by the coordinator, while workers train"


def _limits(
    limits: Limits, completed: int, seconds: Seconds | None, to_train: int, workers: int | str
) -> Iterator[tuple[str, str, str]]:
    """What each limit of the run is worth: --max-completed in time, --max-time in trainings."""
    unknown = "no training could be timed" if seconds is None else str(workers)
    a_second = workers / seconds.mean if seconds and isinstance(workers, int) else None  # trainings
    sooner = f"the search ends sooner, after {to_train:,} training{'' if to_train == 1 else 's'}"
    if limits.max_completed is not None:
        option, left = f"--max-completed {limits.max_completed:,}", max(0, limits.max_completed - completed)
        if left > to_train:
            yield option, "not reached", sooner
        elif a_second:
            yield option, duration(left / a_second), f"for the {left:,} to come, if none fails"
        else:
            yield option, "unknown", unknown
    if limits.max_time_s is not None:
        option = f"--max-time {limits.max_time_s:g} s"
        if a_second is None:
            yield option, "unknown", unknown
        elif limits.max_time_s * a_second > to_train:
            yield option, "not reached", sooner
        else:
            yield option, f"{int(limits.max_time_s * a_second):,} trainings", "what is in training then is finished"
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


def duration(seconds: float) -> str:
    """In the largest unit of which there are two."""
    least, unit = next((of, unit) for of, unit in UNITS if seconds >= 2 * of or of == 1)
    return f"{_number(seconds / least)} {unit}"


def _number(value: float) -> str:
    """With two digits, or more where it is large."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
