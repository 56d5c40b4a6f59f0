"""netsieve confirm: are the best of a search really better?

The best of thousands, chosen by 1,000 validation images, are partly lucky: their accuracy when they were found
is the largest of many draws (the "winner's curse"; Cawley and Talbot, "On over-fitting in model selection", JMLR
11, 2010). So the best are trained again under other seeds, which they were not chosen by, and measured on test
images, which nothing was chosen by.

Each seed is a search of its own, ``NAME.confirm-1`` and so on, over a list of the best strings: recorded in the
same database with the same claims, leases, resume and proof as any other.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from search.candidates import Status
from search.cli.launch import work_on
from search.cli.options import Options, work_options
from search.cli.output import Record, as_record, cell, columns, format_option, print_many, tell
from search.cli.parameters import COUNT, default_data_dir, name_argument
from search.cli.results import reading
from search.cli.retrain import require_same_images
from search.cli.signals import exit_code
from search.errors import InvalidInput, SettingsError
from search.settings import CANDIDATES, LARGEST_INTEGER, SearchSettings, require_name, require_trainable

if TYPE_CHECKING:
    from storage.queries import CandidateDetails, CandidateRow, SearchRow

MOST_SEEDS = 1_000


@dataclass(frozen=True)
class Confirmed:
    """A candidate under other seeds. The fields, in this order, are the command line's keys."""

    rank: int  # when it was found
    index: int
    found: float  # validation accuracy when it was found, 0 to 1
    seeds: int  # that completed
    failed: int  # seeds under which it failed
    mean: float | None  # validation accuracy under the other seeds
    std: float | None  # sample standard deviation; None for fewer than two seeds
    low: float | None
    high: float | None
    test_mean: float | None  # accuracy on the dataset's test images; None where it has none
    test_std: float | None
    layers: str


@click.command()
@name_argument()
@click.option("--top", type=COUNT, default=20, show_default=True, help="How many of the best.")
@click.option("--seeds", type=click.IntRange(1, MOST_SEEDS), default=5, show_default=True, help="How many other seeds.")
@work_options
@format_option()
@click.pass_context
def confirm(ctx: click.Context, /, name: str, top: int, seeds: int, style: str, **work: Any) -> None:
    """Train the best of the search NAME again under other seeds, and say which of them are really better.

    Mean and standard deviation of their validation accuracy, and of their accuracy on the dataset's
    test images, which nothing was chosen by. Each seed is a search of its own (NAME.confirm-1, ...):
    type the command again to go on after an interruption, or with more seeds or a larger --top.
    """
    from workers.datasets import load, require_stored

    search, best = _chosen(name, top, work["url"])
    names = [require_name(f"{name}.confirm-{number}") for number in range(1, seeds + 1)]
    settings = search.settings
    require_trainable(name, settings)
    _require_same_training(work["url"], name, settings, names)
    require_stored(settings.dataset, name, may_be_elsewhere=False)
    require_same_images(load(settings.dataset, work["data_dir"] or default_data_dir()), name, settings)
    code = 0
    for number, confirming in enumerate(names, 1):
        tell(f"seed {number} of {seeds}: search {confirming}")
        options = _options(search, number, _strings(work["url"], confirming, best), work, ctx)
        why, signals = work_on(confirming, options, must_exist=False)
        if signals or why:
            code = exit_code(signals[0]) if signals else 0
            tell(f"stopped: {why}; the same command goes on")
            break
    found = _confirmed(work["url"], names, best)
    print_many(style, map(as_record, found), _table)
    for line in _summary(found, seeds):
        tell(line)
    ctx.exit(code)


def _chosen(name: str, top: int, url: str) -> "tuple[SearchRow, list[CandidateRow]]":
    """The search and its best. Raises InvalidInput if it has none."""
    from storage import queries

    with reading(url) as connection:
        search = queries.require(connection, name)
        best = queries.ranked(connection, search.id, top)
    if not best:
        raise InvalidInput(f"NAME {name}: no candidate is completed yet; go on with it: netsieve resume {name}")
    return search, best


def _require_same_training(url: str, name: str, settings: SearchSettings, names: Sequence[str]) -> None:
    """Raise SettingsError if a confirming search that is there is trained by another version than what it confirms."""
    from storage import queries

    with reading(url) as connection:
        found = [search for each in names if (search := queries.find(connection, each))]
    for search in found:
        if search.settings.training_version != settings.training_version:
            raise SettingsError(
                f"NAME {name}: search {search.name} was trained by version {search.settings.training_version} of the "
                f"training, {name} is trained by version {settings.training_version}; delete it (netsieve delete "
                f"{search.name}) and confirm again"
            )


def _strings(url: str, confirming: str, best: "Sequence[CandidateRow]") -> tuple[str, ...]:
    """What a seed trains: what it was given before, then those of the best that are new to it."""
    from storage import queries

    with reading(url) as connection:
        search = queries.find(connection, confirming)
        known = queries.listed(connection, search.id) if search else []
    have = set(known)
    return (*known, *(row.layers for row in best if row.layers not in have))


def _options(
    search: "SearchRow", number: int, strings: tuple[str, ...], work: dict[str, Any], ctx: click.Context
) -> Options:
    """The search of one other seed: everything else as it was."""
    settings = search.settings
    recipe = settings.recipe
    made: dict[str, Any] = {
        "space": settings.space,
        "seed": (settings.seed + number) % (LARGEST_INTEGER + 1),
        "dataset": settings.dataset,
        "train_images": recipe.train_images,
        "batch_size": recipe.batch_size,
        "epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "device": settings.device,
    }
    typed = {name for name in work if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    return Options(
        **made,
        **work,
        sampler="rejection",
        lengths=None,
        census_all=False,
        dry_run=False,
        strings=strings,
        candidates=CANDIDATES,
        max_completed=None,
        max_time=None,
        target_accuracy=None,
        retry=frozenset(),
        test=True,
        training_version=settings.training_version,
        typed=frozenset(typed | made.keys()),
    )


# ------------------------------------------------------------------ what came of it


def _confirmed(url: str, names: Sequence[str], best: "Sequence[CandidateRow]") -> list[Confirmed]:
    """The best under the seeds that are there: those that ended under most of them first, then by their mean."""
    from storage import queries

    with reading(url) as connection:
        searches = [search for name in names if (search := queries.find(connection, name))]
        found = [
            _under(rank, row, [queries.details_of(connection, search.id, row.layers) for search in searches])
            for rank, row in enumerate(best, 1)
        ]
    return sorted(found, key=lambda row: (-(row.seeds + row.failed), row.mean is None, -(row.mean or 0), row.rank))


def _under(rank: int, row: "CandidateRow", seeds: "Sequence[CandidateDetails | None]") -> Confirmed:
    """One of the best under each of the seeds; None where it was not drawn yet."""
    there = [each for each in seeds if each]
    completed = [each for each in there if each.candidate.status is Status.COMPLETED]
    values = [each.candidate.val_accuracy for each in completed if each.candidate.val_accuracy is not None]
    tests = [each.test_accuracy for each in completed if each.test_accuracy is not None]
    assert row.val_accuracy is not None
    return Confirmed(
        rank=rank,
        index=row.index,
        found=row.val_accuracy,
        seeds=len(completed),
        failed=sum(each.candidate.status is Status.FAILED for each in there),
        mean=_mean(values),
        std=_std(values),
        low=min(values, default=None),
        high=max(values, default=None),
        test_mean=_mean(tests),
        test_std=_std(tests),
        layers=row.layers,
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _table(records: Iterator[Record]) -> Iterator[str]:
    keys = [field.name for field in fields(Confirmed)]
    yield from columns(keys, [[record[key] for key in keys] for record in records])


def _summary(found: Sequence[Confirmed], seeds: int) -> Iterator[str]:
    """How much of what was found was luck."""
    rows = [row for row in found if row.mean is not None]
    if not rows:
        return
    then, now = statistics.fmean(row.found for row in rows), statistics.fmean(row.mean or 0 for row in rows)
    of = "1 candidate" if len(rows) == 1 else f"{len(rows)} candidates"
    yield f"\n{of}, accuracy on average: {cell(then)} when found, {cell(now)} under other seeds"
    tests = [row.test_mean for row in rows if row.test_mean is not None]
    if tests:
        yield f"on the dataset's test images: {cell(statistics.fmean(tests))}"
    else:
        yield "the dataset has no test images, so the validation images, by which they were chosen, are all there is"
    failed = sum(row.failed for row in found)
    if failed:
        yield f"{failed} of these trainings failed and are in no mean: netsieve failures on each seed's search says why"
    first = rows[0]
    if any(row.seeds + row.failed < seeds for row in found):
        yield f"not all of the {seeds} seeds have ended yet: the order is provisional"
    elif first.std is not None:
        on_test = "" if first.test_mean is None else f", {cell(first.test_mean)} on test images"
        yield (
            f"highest mean: index {first.index} (number {first.rank} when found), {cell(first.mean)}, "
            f"standard deviation {cell(first.std)} over {first.seeds} seeds{on_test}; "
            "chosen as the highest of these, it is a little lucky again"
        )
