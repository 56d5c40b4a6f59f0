"""The command that carries a search from one database to another: merge."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import click

from search.cli.output import columns, tell
from search.cli.parameters import database_option, name_argument
from search.cli.results import reading, shown_url
from search.errors import DatabaseError, SettingsError, Stopped
from search.settings import require_name

LOG_EVERY_S = 10.0


@click.command()
@name_argument()
@database_option()
@click.option(
    "--into",
    required=True,
    envvar="NETSIEVE_INTO",
    metavar="URL",
    help="The database to copy to, made if there is none; also NETSIEVE_INTO.",
)
@click.option(
    "--as",
    "new_name",
    metavar="NEWNAME",
    callback=lambda _ctx, _param, value: value and require_name(value),
    help="The search's name there; within one database a copy needs one.",
)
def merge(name: str, url: str, into: str, new_name: str | None) -> None:
    """Copy the search NAME with all that was recorded of it into another database.

    From SQLite to Postgres or back, all or nothing; nothing is changed, and the copy can be resumed. The
    search must not be running. At the end the rows of both sides are counted and compared.
    """
    from storage import queries, transfer
    from storage.engine import is_same, open_for_filling

    with _ending_of_its_own(), reading(url) as source, ExitStack() as stack:
        search_id = queries.require(source, name).id
        queries.require_room(source, search_id)
        with _named_into():
            if is_same(url, into) and new_name in {None, name}:
                raise SettingsError(
                    f"--into {shown_url(into)}: is the database that --db names; give another one, "
                    "or --as NEWNAME for a copy beside the original"
                )
            target = stack.enter_context(open_for_filling(into))
        rows = transfer.row_counts(source, search_id)
        with _progress(sum(rows.values())) as copied:
            there = transfer.copy_search(source, search_id, target, new_name or name, rows, copied)
    for line in columns(("table", "source", "target"), [(table, rows[table], there[table]) for table in rows]):
        click.echo(line)
    tell(f"search {name} is copied into {shown_url(into)}{f' as {new_name}' if new_name else ''}")


@contextmanager
def _ending_of_its_own() -> Iterator[None]:
    """A copy is not resumed as a run is, but made again."""
    from storage.faults import AGAIN, RESUME

    try:
        yield
    except Stopped as error:
        message = str(error).replace(AGAIN, "all or nothing was copied; try again")
        message = message.replace(RESUME, "nothing was copied, the same merge again copies all")
        raise type(error)(message) from None


@contextmanager
def _named_into() -> Iterator[None]:
    """Errors of the target's URL name the option that it was given with."""
    try:
        yield
    except (DatabaseError, Stopped) as error:
        message = str(error).replace("give --db", "give --into")
        raise type(error)(f"--into {message.removeprefix('--db ')}") from None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """To be told of rows as they are copied: a bar on a terminal, a line every ten seconds in a log."""
    if sys.stderr is not None and sys.stderr.isatty():
        with click.progressbar(length=total, label="copying", file=sys.stderr, show_pos=True) as bar:
            yield bar.update
        return
    done, told = 0, time.monotonic()

    def copied(rows: int) -> None:
        nonlocal done, told
        done += rows
        if time.monotonic() - told >= LOG_EVERY_S:
            told = time.monotonic()
            tell(f"copied {done:,} of {total:,} rows")

    yield copied
