"""How answers leave a command: JSON, JSON lines and CSV for programs, tables for people."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, TypeVar

import click

from search.cli.files import standard_output
from search.cli.writers import write_csv
from search.layer_string import parse
from search.layers import Shape, format_layer
from search.shapes import costs

FORMATS = ("table", "json", "jsonl", "csv")
PEOPLE_READ = 20  # rows of a table, unless --limit is typed
HOW_TO_SEE_MORE = "--limit N gives more, --format csv, json or jsonl all"
BLOCKS = "▁▂▃▄▅▆▇█"

Record = dict[str, Any]
Command = TypeVar("Command", bound=Callable[..., Any])


def tell(line: str) -> None:
    """Tell a person on stderr; nobody there to read it is no reason for a run to fail."""
    with suppress(OSError):
        click.echo(line, err=True)


def format_option(*more: str) -> Callable[[Command], Command]:
    """The --format option."""
    return click.option(
        "--format", "style", type=click.Choice((*FORMATS, *more)), default="table", show_default=True,
        help="How to print the answer; table is for people only.",
    )  # fmt: skip


def print_one(style: str, record: Record, table: Callable[[], str]) -> None:
    """Print an answer about one thing: an object."""
    if style == "table":
        click.echo(table())
    elif style == "csv":
        write_csv(standard_output(), list(record), [list(record.values())])
    else:
        click.echo(json.dumps(record, allow_nan=False))


def print_many(style: str, records: Iterable[Record], table: Callable[[Iterator[Record]], Iterator[str]]) -> None:
    """Print an answer about several things, as they come: a list, or an object or row a line."""
    if style == "table":
        for line in table(iter(records)):
            click.echo(line)
    elif style == "jsonl":
        for record in records:
            click.echo(json.dumps(record, allow_nan=False))
    elif style == "csv":
        rows = iter(records)
        for first in islice(rows, 1):  # its keys are the header
            write_csv(standard_output(), list(first), (list(record.values()) for record in chain([first], rows)))
    else:
        click.echo("[", nl=False)
        for number, record in enumerate(records):
            click.echo(("," if number else "") + "\n  " + json.dumps(record, allow_nan=False), nl=False)
        click.echo("\n]")


def as_record(row: Any) -> dict[str, Any]:
    """A frozen row as a record: its fields are the keys."""
    return dataclasses.asdict(row)


def columns(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines of aligned columns, numbers to the right; on a terminal a line ends at its edge, with an ellipsis."""
    edge = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None
    rows = [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    right = [all(_is_number(value) for value in column) for column in zip(*rows, strict=True)] if rows else []
    for row in chain([list(titles)], rows):
        padded = (
            value.rjust(width) if i < len(right) and right[i] else value.ljust(width)
            for i, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        line = "  ".join(padded).rstrip()
        yield line if edge is None or len(line) <= edge else line[: edge - 1] + "…"


def layer_table(layers: str, shapes: Sequence[Sequence[int]], classes: int | None = None) -> Iterator[str]:
    """A layer string, a layer a line, with the shape after each; '-' from a failing layer on.

    With ``classes``, of a valid string, also what each layer costs, and the classifier.
    """
    texts = ["x".join(map(str, shape)) for shape in shapes]
    rows: list[tuple[Any, ...]] = [("", "input", texts[0])]
    for position, layer in enumerate(parse(layers)):
        after = texts[position + 1] if position + 1 < len(texts) else "-"
        rows.append((str(position), format_layer(layer), after))
    if classes is None:
        yield from columns(("", "layer", "output"), rows)
        return
    rows.append(("", "classifier (flatten, linear)", str(classes)))
    each = costs(parse(layers), [Shape(*shape) for shape in shapes], classes)
    rows = [(*row, *cost) for row, cost in zip(rows, [(None, None), *each], strict=True)]
    yield from columns(("", "layer", "output", "parameters", "multiply-adds"), rows)


def sparkline(values: Sequence[float]) -> str:
    """A curve in one word: a block a value, from the lowest to the highest."""
    low, high = min(values), max(values)
    return "".join(BLOCKS[round((value - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for value in values)


def cell(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.0005 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "").replace("%", "").isdigit()
