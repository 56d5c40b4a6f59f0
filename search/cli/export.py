"""The command that writes a search's candidates, or their measurements, to a file or to stdout."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import click

from search.cli.files import require_place, standard_output, written_whole
from search.cli.output import tell
from search.cli.parameters import database_option, name_argument
from search.cli.results import columns_option, reading, selection, sort_option, where_option
from search.cli.writers import require_arrow, write_csv, write_jsonl, write_parquet
from search.errors import SettingsError

FORMATS = ("csv", "jsonl", "parquet")
LINE_EVERY_S = 10.0  # of progress, where stderr is no terminal
REDRAW_EVERY_S = 0.2  # where it is one
LOOK_EVERY = 500  # rows, at the clock


@click.command()
@name_argument()
@click.option(
    "--format",
    "style",
    type=click.Choice(FORMATS),
    help="Without it the ending of FILE says it; csv to stdout.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write, whole or not at all; without it csv and jsonl go to stdout.",
)
@click.option("--measurements", is_flag=True, help="A row a finished epoch, instead of a row a candidate.")
@where_option()
@sort_option()
@columns_option()
@database_option()
def export(
    name: str,
    style: str | None,
    out: Path | None,
    measurements: bool,
    where: tuple[str, ...],
    sort: str | None,
    fields: str | None,
    url: str,
) -> None:
    """Write the candidates of the search NAME, all their fields, to a CSV, JSON lines or Parquet file.

    With --measurements the rows are index, layers, epoch, train_loss, val_loss, val_accuracy; --columns
    says which of the candidate's fields stand before the epoch's.
    """
    from storage import queries
    from storage.selection import EPOCH, FIELDS, Field, parse_columns, select, select_measurements

    style = _style(style, out)
    if style == "parquet":
        require_arrow()
    if out is not None:
        require_place("--out", out)
    asked = parse_columns(fields) if fields else ("index", "layers") if measurements else FIELDS
    chosen = selection(where, sort, asked)
    names = [*asked, *EPOCH] if measurements else [*asked]
    with reading(url) as connection:
        search = queries.require(connection, name)
        all_rows = None if where or measurements else queries.counts(connection, search.id).distinct
        progress = Progress(all_rows)
        asking = select_measurements if measurements else select
        with (
            closing(asking(connection, search.id, chosen)) as rows,
            written_whole("--out", out) if out else nullcontext(standard_output()) as file,
        ):
            counted = progress.counted(rows)
            if style == "csv":
                write_csv(file, names, counted)
            elif style == "jsonl":
                write_jsonl(file, names, counted)
            else:
                metadata = {
                    "netsieve.search": name,
                    "netsieve.settings": json.dumps(search.settings.as_dict()),
                    "netsieve.version": search.netsieve_version,
                }
                write_parquet(file, [Field.of(column) for column in names], counted, metadata)
    if out is not None:
        tell(f"{out}: {progress.written:,} rows")


def _style(style: str | None, out: Path | None) -> str:
    """The format that is asked for. Raises SettingsError where it cannot be told, or cannot be streamed."""
    if style is None:
        style = out.suffix.lstrip(".").lower() if out else "csv"
        if style not in FORMATS:
            raise SettingsError(f"--out {out}: its ending says no format; give --format {'|'.join(FORMATS)}")
    if style == "parquet" and out is None:
        raise SettingsError("--format parquet: cannot be streamed; give --out FILE.parquet")
    return style


class Progress:
    """How many rows are written, told on stderr: drawn again on a terminal, else a line now and then."""

    def __init__(self, of: int | None) -> None:
        self.written = 0
        self._of = f" of {of:,}" if of is not None else ""
        self._draws = sys.stderr is not None and sys.stderr.isatty() and not (sys.stdout and sys.stdout.isatty())
        self._every_s = REDRAW_EVERY_S if self._draws else LINE_EVERY_S

    def counted(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """The rows, as they are taken."""
        told_at, drawn = time.monotonic(), False
        try:
            for row in rows:
                yield row
                self.written += 1
                if self.written % LOOK_EVERY == 0 and time.monotonic() - told_at >= self._every_s:
                    told_at, drawn = time.monotonic(), self._draws
                    line = f"{self.written:,}{self._of} rows"
                    tell(line) if not self._draws else click.echo(f"\r{line}", err=True, nl=False)
        finally:
            if drawn:
                click.echo("\r\033[K", err=True, nl=False)
