"""Commands that ask the database: list, status, top, candidates, failures, show."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from search.cli.output import (
    PEOPLE_READ,
    Record,
    as_record,
    cell,
    columns,
    format_option,
    layer_table,
    print_many,
    print_one,
)
from search.cli.parameters import COUNT, INDEX, database_option, name_argument
from search.errors import InvalidInput
from search.layer_string import parse
from search.shapes import check

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from storage.queries import CandidateDetails, SearchRow


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
        for name in queries.names(connection):
            search = queries.require(connection, name)
            standing = queries.standing(connection, search.id)
            records.append(
                {
                    "name": search.name,
                    "state": standing.state,
                    "target": standing.counts.target,
                    "drawn": standing.counts.drawn,
                    "completed": standing.counts.completed,
                    "dataset": search.settings.dataset,
                    "space": search.settings.space.name,
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
    }

    def table() -> str:
        why = f" ({standing.stopped_because})" if standing.stopped_because else ""
        rows = [("name", search.name), ("state", f"{standing.state}{why}"),
                *((key, cell(value)) for key, value in numbers.items())]  # fmt: skip
        if best:
            rows.append(("best", f"accuracy {cell(best[0].val_accuracy)}, index {best[0].index}: {best[0].layers}"))
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


@click.command()
@name_argument()
@click.option("--limit", type=COUNT, help="The first so many.")
@database_option()
@format_option()
def candidates(name: str, limit: int | None, url: str, style: str) -> None:
    """List the candidates of the search NAME, in the order in which they were drawn."""
    from storage import queries

    with reading(url) as connection:
        search = queries.require(connection, name)
        shown = min(limit or PEOPLE_READ, PEOPLE_READ) if style == "table" else limit
        rows = queries.candidates(connection, search.id, shown)
        print_many(style, map(as_record, rows), _candidates_table)
        distinct = queries.counts(connection, search.id).distinct
    if style == "table" and shown is not None and min(distinct, limit or distinct) > shown:
        click.echo(f"{shown} of {distinct:,}; --format csv, json or jsonl gives all", err=True)


def _candidates_table(records: Iterator[Record]) -> Iterator[str]:
    keys = ("index", "status", "reason", "layer", "val_accuracy", "val_loss", "parameters", "layers")
    yield from columns(keys, [[record[key] for key in keys] for record in records])


@click.command()
@name_argument()
@database_option()
@format_option()
def failures(name: str, url: str, style: str) -> None:
    """Count the rejections and failures of the search NAME, by reason and layer."""
    from storage import queries

    with reading(url) as connection:
        search = queries.require(connection, name)
        rows = queries.failures(connection, search.id)

    def table(records: Iterator[Record]) -> Iterator[str]:
        total = sum(row.candidates for row in rows)
        yield from columns(
            ("status", "reason", "layer", "candidates", "share"),
            [[*record.values(), f"{record['candidates'] / total:.1%}"] for record in records],
        )

    print_many(style, map(as_record, rows), table)


@click.command()
@name_argument()
@click.argument("index", type=INDEX)
@database_option()
@format_option()
def show(name: str, index: int, url: str, style: str) -> None:
    """Show the candidate of the search NAME that was drawn at INDEX: layers, shapes, losses."""
    from storage import queries

    with reading(url) as connection:
        search = queries.require(connection, name)
        found = find_candidate(connection, search, index)
    verdict = check(parse(found.candidate.layers), search.settings.space.rules)
    measurements = [
        {"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "val_accuracy": val_accuracy}
        for epoch, (train_loss, val_loss, val_accuracy) in enumerate(found.curve, 1)
    ]
    record = {
        **as_record(found.candidate),
        "detail": found.detail,
        "shapes": [list(shape) for shape in verdict.shapes],
        "measurements": measurements,
    }
    print_one(style, record, lambda: "\n".join(_details_table(record, index)))


def find_candidate(connection: "Connection", search: "SearchRow", index: int) -> "CandidateDetails":
    """The candidate that was drawn at an index, there or before. Raises InvalidInput."""
    from storage import queries

    return queries.details(connection, search.id, index) or _first_drawn(connection, search, index)


def _first_drawn(connection: "Connection", search: "SearchRow", index: int) -> "CandidateDetails":
    """A repeat's architecture, as it was first drawn: drawn again, and looked up."""
    from search.layer_string import format_architecture
    from search.samplers import SAMPLERS
    from storage import queries

    counts = queries.counts(connection, search.id)
    if index >= counts.drawn:
        raise InvalidInput(
            f"INDEX {index}: not drawn; the search has drawn indices 0 to {counts.drawn - 1} of {counts.target} so far"
        )
    settings = search.settings
    (architecture,) = SAMPLERS[settings.sampler](settings.space, settings.seed).draw(index, index + 1)
    found = queries.details_of(connection, search.id, format_architecture(architecture))
    if found is None:
        raise InvalidInput(f"INDEX {index}: the database has no candidate for it, though it was drawn")
    return found


def _details_table(record: Record, asked: int) -> Iterator[str]:
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
    yield from layer_table(record["layers"], record["shapes"])
    if record["measurements"]:
        yield ""
        yield from columns(list(record["measurements"][0]), [list(m.values()) for m in record["measurements"]])
    yield ""
    yield record["layers"]
