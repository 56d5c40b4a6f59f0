"""Commands that ask the database: list, status, top, candidates, failures, show."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from search.cli.files import standard_output
from search.cli.output import (
    HOW_TO_SEE_MORE,
    PEOPLE_READ,
    Command,
    Record,
    as_record,
    cell,
    columns,
    format_option,
    layer_table,
    print_many,
    print_one,
    sparkline,
    tell,
)
from search.cli.parameters import COUNT, INDEX, database_option, name_argument
from search.cli.writers import write_csv
from search.errors import InvalidInput
from search.layer_string import parse
from search.shapes import check, costs

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from storage.queries import AttemptRow, CandidateDetails, SearchRow
    from storage.selection import Condition, Selection


@contextmanager
def reading(url: str) -> "Iterator[Connection]":
    """A connection that can only read."""
    from storage.engine import open_for_reading, shown, translated

    engine = open_for_reading(url)
    with translated(shown(url)), engine.connect() as connection:
        yield connection


@click.command("list")
@database_option()
@format_option()
def list_searches(url: str, style: str) -> None:
    """List the searches of a database."""
    from storage import queries

    with reading(url) as connection:
        records = []
        for search in queries.outlines(connection):
            standing = queries.standing(connection, search.id)
            records.append(
                {
                    "name": search.name,
                    "state": standing.state,
                    "target": standing.counts.target,
                    "drawn": standing.counts.drawn,
                    "completed": standing.counts.completed,
                    "dataset": search.dataset,
                    "space": search.space,
                    "created": search.created_at.isoformat(timespec="seconds"),
                }
            )

    def table(found: Iterator[Record]) -> Iterator[str]:
        yield from columns(("name", "state", "target", "drawn", "completed", "dataset", "space", "created"),
                           [list(record.values()) for record in found])  # fmt: skip

    print_many(style, records, table)


@click.command()
@name_argument()
@database_option()
@format_option()
def status(name: str, url: str, style: str) -> None:
    """Say how the search NAME stands, and why it stopped if it did."""
    from storage import queries

    with reading(url) as connection:
        search = queries.require(connection, name)
        standing = queries.standing(connection, search.id)
        best = queries.ranked(connection, search.id, 1)
        worked = queries.worked(connection, search.id)
    counts = standing.counts
    numbers = {
        "target": counts.target,
        "drawn": counts.drawn,
        "distinct": counts.distinct,
        "repeats": counts.repeats,
        "rejected": counts.rejected,
        "completed": counts.completed,
        "failed": counts.failed,
        "open": counts.open,
    }
    record = {
        "name": search.name,
        "state": standing.state,
        **numbers,
        "best": as_record(best[0]) if best else None,
        "stopped_because": standing.stopped_because,
        "worker_seconds": round(worked.worker_s, 3),
        "training_seconds": round(worked.training_s, 3),
        "training_share": worked.training_share,
    }

    def table() -> str:
        why = f" ({standing.stopped_because})" if standing.stopped_because else ""
        rows = [("name", search.name), ("state", f"{standing.state}{why}"),
                *((key, cell(value)) for key, value in numbers.items())]  # fmt: skip
        if best:
            rows.append(("best", f"accuracy {cell(best[0].val_accuracy)}, index {best[0].index}: {best[0].layers}"))
        if worked.training_share is not None:
            rows.append(("workers", f"{100 * worked.training_share:.1f} % of worker time spent training"))
        return "\n".join(f"{key:<10} {value}" for key, value in rows)

    print_one(style, record, table)


@click.command()
@name_argument()
@click.option("-n", "--limit", type=COUNT, default=10, show_default=True, help="How many.")
@database_option()
@format_option()
def top(name: str, limit: int, url: str, style: str) -> None:
    """List the best candidates of the search NAME: by accuracy, then loss, then index."""
    with reading(url) as connection:
        records = best_candidates(connection, name, limit)
    print_many(style, records, ranking_table)
    if style == "table" and not records:
        tell(f"search {name} has no completed candidate yet; netsieve status {name} says how it stands")


def best_candidates(connection: "Connection", name: str, limit: int) -> list[Record]:
    """The best completed candidates of a search."""
    from storage import queries

    search = queries.require(connection, name)
    return [as_record(row) for row in queries.ranked(connection, search.id, limit)]


def ranking_table(records: Iterator[Record]) -> Iterator[str]:
    """Best candidates for people."""
    keys = ("val_accuracy", "val_loss", "parameters", "macs", "index", "layers")
    rows = [[rank, *(record[key] for key in keys)] for rank, record in enumerate(records, 1)]
    yield from columns(("rank", "accuracy", "loss", "parameters", "macs", "index", "layers"), rows)


def where_option() -> Callable[[Command], Command]:
    """The --where option."""
    return click.option(
        "--where", multiple=True, metavar="CONDITION",
        help="FIELD OPERATOR VALUE, such as 'val_accuracy>=0.97', 'layers~maxpool' or 'reason=none'; all of several.",
    )  # fmt: skip


def sort_option() -> Callable[[Command], Command]:
    """The --sort option."""
    return click.option(
        "--sort", metavar="FIELD,...", help="A '-' before a field: descending. Missing values come last."
    )


def columns_option() -> Callable[[Command], Command]:
    """The --columns option."""
    return click.option("--columns", "fields", metavar="FIELD,...", help="What to print of each, in this order.")


@click.command()
@name_argument()
@where_option()
@sort_option()
@columns_option()
@click.option("--limit", type=COUNT, help="The first so many; a table stops at 20 without it.")
@database_option()
@format_option()
def candidates(
    name: str, where: tuple[str, ...], sort: str | None, fields: str | None, limit: int | None, url: str, style: str
) -> None:
    """List the candidates of the search NAME, in the order in which they were drawn unless told otherwise."""
    from storage import queries
    from storage.selection import KEYS, parse_columns, select

    asked = parse_columns(fields) if fields else KEYS if style != "table" else TABLE_KEYS
    chosen = selection(where, sort, asked, limit)
    if style == "table" and limit is None:
        chosen = replace(chosen, limit=PEOPLE_READ + 1)
    with reading(url) as connection:
        search = queries.require(connection, name)
        with closing(select(connection, search.id, chosen)) as rows:
            if style == "csv":  # with its header, also where there is no row
                write_csv(standard_output(), asked, rows)
                return
            if style != "table":
                print_many(style, (dict(zip(asked, row, strict=True)) for row in rows), lambda _: iter(()))
                return
            found = list(rows)
        distinct = queries.counts(connection, search.id).distinct
    for line in columns(asked, found[: limit or PEOPLE_READ]):
        click.echo(line)
    if not found:
        tell(_why_nothing(chosen.where))
    if limit is None and len(found) > PEOPLE_READ:
        tell(f"{PEOPLE_READ} {f'of {distinct:,}' if not where else 'and there are more'}; {HOW_TO_SEE_MORE}")


def _why_nothing(conditions: "Sequence[Condition]") -> str:
    """Why a table of candidates is empty."""
    if not conditions:
        return "nothing is drawn yet"
    why = f"no candidate fulfils {'it' if len(conditions) == 1 else 'all of it'}"
    is_percent = any(
        condition.field.endswith("accuracy") and isinstance(condition.value, int | float) and condition.value > 1
        for condition in conditions
    )
    return f"{why}; accuracies go from 0 to 1" if is_percent else why


TABLE_KEYS = ("index", "status", "reason", "layer", "val_accuracy", "val_loss", "parameters", "layers")


def selection(
    where: tuple[str, ...], sort: str | None, fields: tuple[str, ...], limit: int | None = None
) -> "Selection":
    """The selection that options write. Raises SettingsError."""
    from storage.selection import Condition, Order, Selection

    conditions = tuple(map(Condition.parse, where))
    return Selection(conditions, tuple(Order.parse(sort)) if sort else (), fields, limit)


@click.command()
@name_argument()
@click.option(
    "--by",
    type=click.Choice(["both", "reason", "layer"]),
    default="both",
    show_default=True,
    help="Group by reason and layer, or by one of the two.",
)
@database_option()
@format_option()
def failures(name: str, by: str, url: str, style: str) -> None:
    """Count the rejections and failures of the search NAME, by reason and layer, with an example of each."""
    from storage import queries

    with reading(url) as connection:
        search = queries.require(connection, name)
        rows = queries.failures(connection, search.id, queries.By(by))

    def table(records: Iterator[Record]) -> Iterator[str]:
        total = sum(row.candidates for row in rows)
        yield from columns(
            ("status", "reason", "layer", "candidates", "share", "example", "layers"),
            [
                [r["status"], r["reason"], r["layer"], r["candidates"], f"{r['candidates'] / total:.1%}",
                 r["example"], r["example_layers"]]
                for r in records
            ],
        )  # fmt: skip

    print_many(style, map(as_record, rows), table)


@click.command()
@name_argument()
@click.argument("index", type=INDEX)
@database_option()
@format_option()
@click.pass_context
def show(ctx: click.Context, name: str, index: int, url: str, style: str) -> None:
    """Show the candidate of the search NAME that was drawn at INDEX: layers, shapes, costs, losses, attempts."""
    from storage import queries

    with reading(url) as connection:
        search = queries.require(connection, name)
        found = find_candidate(connection, search, index)
        attempts = queries.attempts(connection, search.id, found.candidate.index)
    rules = search.settings.space.rules
    architecture = parse(found.candidate.layers)
    verdict = check(architecture, rules)
    measurements = [
        {"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "val_accuracy": val_accuracy}
        for epoch, (train_loss, val_loss, val_accuracy) in enumerate(found.curve, 1)
    ]
    each = costs(architecture, verdict.shapes, rules.classes) if verdict.valid else []
    command = ["netsieve", "retrain", name, str(found.candidate.index)]
    if ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        command += ["--db", shown_url(url)]
    record = {
        **as_record(found.candidate),
        "detail": found.detail,
        "shapes": [list(shape) for shape in verdict.shapes],
        "measurements": measurements,
        "test_loss": found.test_loss,
        "test_accuracy": found.test_accuracy,
        "layer_costs": [{"parameters": parameters, "macs": macs} for parameters, macs in each],
        "attempts_in_flight_or_failed": [_attempt(row) for row in attempts],
        "retrain": shlex.join(command) if verdict.valid else None,
    }
    print_one(style, record, lambda: "\n".join(_details_table(record, index, rules.classes)))


def _attempt(row: "AttemptRow") -> Record:
    """An attempt, its moments as text."""
    record = as_record(row)
    moments = {
        key: value.isoformat(timespec="seconds") for key, value in record.items() if key.endswith("_at") and value
    }
    return {**record, **moments}


def shown_url(url: str) -> str:
    """A URL that can be printed and, but for a masked password, typed."""
    from storage.engine import shown

    return url if url.startswith("sqlite:") else shown(url)


def find_candidate(connection: "Connection", search: "SearchRow", index: int) -> "CandidateDetails":
    """The candidate that was drawn at an index, there or before. Raises InvalidInput."""
    from storage import queries

    return queries.details(connection, search.id, index) or _first_drawn(connection, search, index)


def _first_drawn(connection: "Connection", search: "SearchRow", index: int) -> "CandidateDetails":
    """A repeat's architecture, as it was first drawn: drawn again, and looked up."""
    from search.layer_string import format_architecture
    from search.samplers import sampler_of
    from storage import queries

    counts = queries.counts(connection, search.id)
    if index >= counts.drawn:
        raise InvalidInput(
            f"INDEX {index}: not drawn; the search has drawn indices 0 to {counts.drawn - 1} of {counts.target} so far"
        )
    sampler = sampler_of(search.settings, queries.listed(connection, search.id))
    (architecture,) = sampler.draw(index, index + 1)
    found = queries.details_of(connection, search.id, format_architecture(architecture))
    if found is None:
        raise InvalidInput(f"INDEX {index}: the database has no candidate for it, though it was drawn")
    return found


def _details_table(record: Record, asked: int, classes: int) -> Iterator[str]:
    if record["index"] != asked:
        yield f"index {asked} drew the architecture of index {record['index']} again; it was not trained twice"
    why = f": {record['reason']}" if record["reason"] else ""
    at = "" if record["layer"] is None else f" at layer {record['layer']} (counted from 0)"
    yield f"candidate {record['index']}  {record['status']}{why}{at}"
    if record["detail"]:
        yield record["detail"]
    if record["parameters"] is not None:
        yield f"{cell(record['parameters'])} parameters, {cell(record['macs'])} multiply-adds per image"
    if record["seconds"] is not None:
        yield f"{record['seconds']:.1f} s in training, attempts: {record['attempts']}"
    yield ""
    yield from layer_table(record["layers"], record["shapes"], classes if record["layer_costs"] else None)
    yield from _curve_table(record)
    if record["attempts_in_flight_or_failed"]:
        yield ""
        rows = [list(attempt.values()) for attempt in record["attempts_in_flight_or_failed"]]
        yield from columns(("attempt", "host", "dispatched", "ended", "ending", "detail"), rows)
    yield ""
    yield record["layers"]
    if record["retrain"]:
        yield f"train it again: {record['retrain']}"


def _curve_table(record: Record) -> Iterator[str]:
    measurements = record["measurements"]
    if not measurements:
        return
    yield ""
    yield from columns(list(measurements[0]), [list(m.values()) for m in measurements])
    if len(measurements) > 1:
        yield ""
        for key in ("train_loss", "val_loss", "val_accuracy"):
            values = [m[key] for m in measurements]
            yield f"{key:<12}  {sparkline(values)}  {cell(values[0])} to {cell(values[-1])}"
    if record["test_accuracy"] is not None:
        yield f"on the test images: accuracy {cell(record['test_accuracy'])}, loss {cell(record['test_loss'])}"
