"""netsieve run --dry-run: what a search will cost, before anything is started or written.

How many candidates its draws hold comes from ``search/forecast.py``, exactly where that can be told. How long
their training takes is measured: a few of them, from the cheapest to the dearest, are trained here for some
steps. So it is known when --max-completed and --max-time end the run; --target-accuracy nobody can foretell.
Not covered: other processors than this one's, what a cluster's nodes share, and candidates that fail.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from search.cli.output import cell, columns, tell
from search.coordinator import cost
from search.forecast import Basis, Forecast, draws_until, forecast, of_first
from search.messages import Task
from search.run import DRAWS, Counts
from search.samplers import Sampler, sampler_of
from search.settings import Limits, SearchSettings

if TYPE_CHECKING:
    from workers.datasets import Dataset

PROBES = 20  # candidates that are trained for a moment
STEPS = 25  # training batches of each

# Bytes of a database: 48,061 distinct candidates, 10,007 of them completed after 1, 10 and 30 epochs, on SQLite
# 3.40.1; Postgres 18.4 took 1.16 times as many for ten million (tests/benchmarks/README.md).
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
    best_accuracy: float | None = None  # so far
    is_shared: bool = False  # others run it at this moment

    @property
    def ended(self) -> int:
        """Valid candidates that are not trained any more."""
        return self.counts.completed + self.counts.failed

    @property
    def valid(self) -> int:
        """Valid candidates drawn."""
        return self.ended + self.counts.open


@dataclass(frozen=True)
class _End:
    """One of the limits that were given, and when it ends the run."""

    option: str  # as it is typed
    trainings: int | None  # of this run, until then; None: that cannot be told
    how: str  # it is known, or why it is not
    hours: float | None = None  # by the clock, where that ends it


def print_costs(
    name: str,
    settings: SearchSettings,
    listed: Sequence[str],
    dataset: "Dataset",
    limits: Limits,
    begun: Begun,
    workers: int | None,
    *,
    is_postgres: bool,
) -> None:
    """Say what a search costs to its end, and this run of it where limits end that before.

    ``workers`` train at once; None: nobody knows how many. Raises what drawing raises.
    """
    sampler = sampler_of(settings, listed)
    found = forecast(sampler, settings.space.rules, limits.candidates)
    to_train = begun.counts.open + max(0, found.valid - begun.valid)
    tell(f"training a moment of {min(PROBES, len(found.sample))} candidates, to see how long they take here")
    seconds = probe(settings, dataset, found) if found.sample else None
    ends = list(_ends(limits, begun, seconds, workers))
    known = [(end.trainings, end) for end in ends if end.trainings is not None and end.trainings < to_train]
    trained, first = min(known, key=lambda known: known[0], default=(to_train, None))
    then = found if first is None else _drawn_by(found, sampler, begun, trained)
    rows = [*_counts(found, begun, to_train), *_training(seconds, settings.recipe.epochs, limits.trial_timeout_s)]
    rows += [_when(end, to_train) for end in ends]
    if first is not None:
        rows += _this_run(first, trained, to_train, then.draws, found.draws)
    if seconds is not None:
        hours = None if first is None else first.hours
        rows += _times(seconds.mean, to_train, trained, hours, workers, is_shared=begun.is_shared)
    ended = begun.ended + trained
    size = EMPTY_BYTES + max(then.distinct, begun.counts.distinct) * CANDIDATE_BYTES
    size += ended * (ENDED_BYTES + EPOCH_BYTES * settings.recipe.epochs)
    when = "when all is done" if first is None else "when this run ends"
    rows.append(("database", _bytes(size * (POSTGRES if is_postgres else 1)), f"about, {when}"))
    click.echo(f"search {name}, dry run: nothing was started or written")
    for line in columns(("", "", ""), rows):
        if line:
            click.echo(line)


def _ends(limits: Limits, begun: Begun, seconds: Seconds | None, workers: int | None) -> Iterator[_End]:
    """What each limit says of this run."""
    if limits.max_completed is not None:
        left = limits.max_completed - begun.counts.completed
        how = "more, if none fails" if begun.counts.completed else "if none fails"
        yield _End(f"--max-completed {limits.max_completed:,}", max(0, left), how if left > 0 else "it is reached")
    if limits.max_time_s is not None:
        option = f"--max-time {limits.max_time_s:g} s"
        if seconds is None:
            yield _End(option, None, "no training could be timed")
        elif workers is None:
            each = max(1, int(limits.max_time_s / seconds.mean))
            yield _End(option, None, f"{each:,} trainings a worker; --workers says how many there are")
        else:
            fit = max(workers, int(limits.max_time_s * workers / seconds.mean))
            hours = max(limits.max_time_s, seconds.mean) / 3600
            yield _End(option, fit, f"fit, with {_workers(workers)}; what is in training then is finished", hours)
    if limits.target_accuracy is not None:
        is_reached = begun.best_accuracy is not None and begun.best_accuracy >= limits.target_accuracy
        how = "it is reached" if is_reached else "cannot be foretold: the run ends once a candidate reaches it"
        yield _End(f"--target-accuracy {limits.target_accuracy:g}", 0 if is_reached else None, how)


def _when(end: _End, to_train: int) -> tuple[str, str, str]:
    if end.trainings is None:
        return end.option, "unknown", end.how
    if end.trainings >= to_train:
        return end.option, "not reached", f"the search ends before, after {_trainings(to_train)}"
    return end.option, _trainings(end.trainings), end.how


def _drawn_by(found: Forecast, sampler: Sampler, begun: Begun, trained: int) -> Forecast:
    """What is drawn when this run has trained so many: open ones come first, and then as many draws as it takes."""
    drawn, beyond = begun.counts.drawn, trained - begun.counts.open
    missing = draws_until(found, sampler, begun.valid + beyond) - drawn if beyond > 0 else 0
    return of_first(found, sampler, min(found.draws, drawn + max(0, -(-missing // DRAWS)) * DRAWS))


def _this_run(end: _End, trained: int, to_train: int, drawn: int, draws: int) -> Iterator[tuple[str, str, str]]:
    share = _number(100 * trained / to_train)
    yield "this run", _trainings(trained), f"{share}% of what is to train; {end.option} ends it"
    yield "drawn then", cell(drawn), f"of {draws:,}; {DRAWS:,} at a time, some of them ahead of training"


def _counts(found: Forecast, begun: Begun, to_train: int) -> Iterator[tuple[str, str, str]]:
    how = {
        Basis.COUNTED: "exactly: every draw was made",
        Basis.CENSUS: "exactly: the census repeats and rejects nothing",
        Basis.EXPECTED: "expected, from the exact counts of the space",
        Basis.SCALED: "scaled up from its first draws; repeats among the rest are not seen",
    }[found.basis]
    yield "draws", cell(found.draws), ""
    yield "distinct", cell(found.distinct), how
    yield "valid", cell(found.valid), f"{found.valid / found.draws:.1%} of the draws"
    if begun.valid:
        is_open, again = begun.counts.open - begun.retried, begun.retried
        retried = f", {again:,} {'is' if again == 1 else 'are'} tried again" if again else ""
        new = to_train - begun.counts.open
        how_many = f"{begun.ended:,} {'is' if begun.ended == 1 else 'are'} trained already"
        yield "to train", cell(to_train), f"{is_open:,} open{retried}, {new:,} still to draw; {how_many}"


def _training(seconds: Seconds | None, epochs: int, timeout_s: float) -> Iterator[tuple[str, str, str]]:
    if seconds is None:
        return
    spread = (
        f"mean; {seconds.probes} probes took {_number(seconds.least)} to {_number(seconds.most)} s, for {epochs} epochs"
    )
    yield "a training", f"{_number(seconds.mean)} s", spread
    if seconds.most > timeout_s:
        yield f"--trial-timeout {timeout_s:g} s", "too short", "for some, which fail after two tries; not counted here"


def _times(
    mean_s: float, to_train: int, trained: int, hours: float | None, workers: int | None, *, is_shared: bool
) -> Iterator[tuple[str, str, str]]:
    """Hours of this run, given where the clock ends it; of the whole search as well, where the run ends before."""

    def whole(share: int) -> str:
        return f"; {_number(mean_s * to_train / 3600 / share)} for the whole search" if trained < to_train else ""

    worker_hours = mean_s * trained / 3600 if hours is None else hours * (workers or 1)
    yield "worker-hours", _number(worker_hours), f"on a processor like this one, with a core for each{whole(1)}"
    if workers is None:
        yield "hours", "unknown", "--workers says how many of the cluster's there will be"
        return
    others = "; other runs of the search, at this moment, take some of it" if is_shared else ""
    yield "hours", _number(worker_hours / workers), f"with {_workers(workers)}{whole(workers)}{others}"


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"


def _trainings(count: int) -> str:
    return f"{count:,} training{'' if count == 1 else 's'}"


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
