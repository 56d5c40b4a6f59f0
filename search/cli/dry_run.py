"""netsieve run --dry-run: what a search will cost, before anything is started or written.

How many candidates its draws hold comes from ``search/forecast.py``, exactly where that can be told. How long
their training takes is measured: a few of them, from the cheapest to the dearest, are trained here for some
steps. Not covered: other processors than this one's, and what a cluster's nodes share.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from search.cli.output import cell, columns, tell
from search.coordinator import cost
from search.forecast import Basis, Forecast, forecast
from search.messages import Task
from search.samplers import sampler_of
from search.settings import SearchSettings

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


def print_costs(
    name: str,
    settings: SearchSettings,
    listed: Sequence[str],
    dataset: "Dataset",
    draws: int,
    ended: int,
    workers: int | None,
    *,
    is_postgres: bool,
) -> None:
    """Say what a search of ``draws`` draws will cost, of which ``ended`` valid candidates are trained already.

    ``workers`` train at once; None: nobody knows how many. Raises what drawing raises.
    """
    found = forecast(sampler_of(settings, listed), settings.space.rules, draws)
    to_train = max(0, found.valid - ended)
    tell(f"training a moment of {min(PROBES, len(found.sample))} candidates, to see how long they take here")
    seconds = probe(settings, dataset, found) if found.sample else None
    size = found.distinct * CANDIDATE_BYTES + found.valid * (ENDED_BYTES + EPOCH_BYTES * settings.recipe.epochs)
    size += EMPTY_BYTES
    rows = [*_counts(found, ended), *_times(seconds, to_train, workers, settings.recipe.epochs)]
    rows.append(("database", _bytes(size * (POSTGRES if is_postgres else 1)), "about, when all is done"))
    click.echo(f"search {name}, dry run: nothing was started or written")
    for line in columns(("", "", ""), rows):
        if line:
            click.echo(line)


def _counts(found: Forecast, ended: int) -> Iterator[tuple[str, str, str]]:
    how = {
        Basis.COUNTED: "exactly: every draw was made",
        Basis.CENSUS: "exactly: the census repeats and rejects nothing",
        Basis.EXPECTED: "expected, from the exact counts of the space",
        Basis.SCALED: "scaled up from its first draws; repeats among the rest are not seen",
    }[found.basis]
    yield "draws", cell(found.draws), ""
    yield "distinct", cell(found.distinct), how
    yield "valid", cell(found.valid), f"{found.valid / found.draws:.1%} of the draws"
    if ended:
        yield "to train", cell(max(0, found.valid - ended)), f"{ended:,} are trained already"


def _times(seconds: Seconds | None, to_train: int, workers: int | None, epochs: int) -> Iterator[tuple[str, str, str]]:
    if seconds is None:
        return
    spread = (
        f"mean; {seconds.probes} probes took {_number(seconds.least)} to {_number(seconds.most)} s, for {epochs} epochs"
    )
    yield "a training", f"{_number(seconds.mean)} s", spread
    hours = seconds.mean * to_train / 3600
    yield "worker-hours", _number(hours), "on a processor like this one, with a core for each"
    if workers:
        yield "hours", _number(hours / workers), f"with {workers} worker{'s' if workers > 1 else ''}"


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
