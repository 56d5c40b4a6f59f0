"""The command that answers people's own SQL."""

import json
import sys
from itertools import islice
from typing import Any

import click

from search.cli.files import standard_output
from search.cli.output import HOW_TO_SEE_MORE, PEOPLE_READ, columns, format_option, print_many, tell
from search.cli.parameters import COUNT, database_option
from search.cli.results import reading
from search.cli.writers import write_csv, write_jsonl
from search.errors import QueryError


@click.command(context_settings={"ignore_unknown_options": True})  # a query may begin with a comment: -- why
@click.argument("query")
@click.option("--limit", type=COUNT, help="The first so many rows.")
@database_option()
@format_option()
def sql(query: str, limit: int | None, url: str, style: str) -> None:
    """Answer QUERY, one SQL statement that reads ('-': from stdin); the database lets it write nothing.

    Ask the views searches, candidates, layers and measurements: storage/README.md describes them, with
    questions to begin with. A table stops at 20 rows and says so, unless --limit is given.
    """
    from storage.questions import asked

    if query == "-":
        query = _typed()
    with reading(url) as connection, asked(connection, query) as answer:
        rows = islice(answer.rows, limit)
        if style == "csv":
            write_csv(standard_output(), answer.columns, rows)
        elif style == "jsonl":
            write_jsonl(standard_output(), answer.columns, rows)
        elif style == "json":
            records = (dict(zip(answer.columns, row, strict=True)) for row in rows)
            print_many(style, records, lambda _: iter(()))
        else:
            shown = [[_cell(value) for value in row] for row in islice(rows, limit or PEOPLE_READ)]
            for line in columns(answer.columns, shown):
                click.echo(line)
            if next(rows, None) is not None:
                tell(f"{PEOPLE_READ} rows, and there are more; {HOW_TO_SEE_MORE}")


def _typed() -> str:
    """The query on stdin. Raises QueryError for what is not text."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig") if sys.stdin is not None else ""
    except UnicodeDecodeError:
        raise QueryError("QUERY: standard input is not UTF-8 text") from None


def _cell(value: Any) -> Any:
    """A value that fits a line of a table."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    return "".join(c if c.isprintable() else " " for c in value) if isinstance(value, str) else value
