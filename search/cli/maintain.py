"""Commands that look after searches and their database: stop, delete, db upgrade, db check."""

import sys
import time
from typing import TYPE_CHECKING

import click

from search.cli.output import tell
from search.cli.parameters import database_option, name_argument
from search.cli.results import reading
from search.errors import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from storage.queries import SearchRow

LOOK_AGAIN_S = 0.5
MOST_SHOWN = 20  # findings of a search


@click.command()
@name_argument()
@database_option()
@click.option("--no-wait", is_flag=True, help="Only ask, do not wait until it has ended.")
def stop(name: str, url: str, no_wait: bool) -> None:
    """End the runs of the search NAME, wherever they are, once what is in training is finished."""
    from storage import maintenance, queries
    from storage.engine import open_for_writing

    with reading(url) as connection:
        search_id = queries.require(connection, name).id
    engine = open_for_writing(url)
    try:
        asked = maintenance.ask_to_stop(engine, search_id)
    finally:
        engine.dispose()
    if not asked:
        tell(f"search {name} is not being run")
        return
    for row in asked:
        tell(f"asked process {row.pid} on {row.host} to stop")
    waiting = {row.id for row in asked} if not no_wait else set()
    while waiting:
        time.sleep(LOOK_AGAIN_S)
        with reading(url) as connection:
            waiting &= {row.id for row in queries.coordinators_at_work(connection, search_id)}
    if not no_wait:
        tell(f"search {name} is stopped; netsieve resume goes on")


@click.command()
@name_argument()
@database_option()
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(name: str, url: str, yes: bool) -> None:
    """Delete the search NAME with all its candidates. It asks first."""
    from storage import maintenance, queries
    from storage.engine import open_for_writing

    with reading(url) as connection:
        search = queries.require(connection, name)
        counts = queries.counts(connection, search.id)
        queries.require_room(connection, search.id)
    if not yes:
        if not _can_ask():
            raise SettingsError(f"delete {name}: there is no terminal to ask on; give --yes")
        question = f"Delete search {name} with {counts.distinct:,} candidates, {counts.completed:,} of them trained?"
        click.confirm(question, abort=True, err=True)
    engine = open_for_writing(url)
    try:
        maintenance.delete(engine, search)
    finally:
        engine.dispose()
    tell(f"search {name} is deleted")


def _can_ask() -> bool:
    return sys.stdin.isatty()


@click.group()
def db() -> None:
    """Look after a database: migrate it, prove what it holds."""


@db.command()
@database_option()
def upgrade(url: str) -> None:
    """Migrate a database of an older netsieve; all or nothing."""
    from storage import engine

    before, after = engine.upgrade(url)
    if before == after:
        tell(f"{engine.shown(url)} has schema {after} already")
    else:
        tell(f"{engine.shown(url)} is migrated from schema {before} to {after}")


@db.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@database_option()
@click.pass_context
def check_database(ctx: click.Context, names: tuple[str, ...], url: str) -> None:
    """Prove that searches (all, unless named) hold what their seeds and runs must give.

    Every candidate is drawn and checked anew, every number counted, every lease compared: about
    twenty thousand candidates a second. Exits 1 with what is wrong. A search may go on meanwhile.
    """
    from storage import check, queries

    with reading(url) as connection:
        searches = [queries.require(connection, name) for name in names or queries.names(connection)]
        wrong = check.check_file(connection)
        for line in wrong:
            click.echo(line)
        for search in searches:
            wrong += _check_search(connection, search)
    ctx.exit(1 if wrong else 0)


def _check_search(connection: "Connection", search: "SearchRow") -> list[str]:
    """Print how a search stands, and what is wrong with it."""
    from search.samplers import VERSIONS, sampler_of
    from search.sieve import judge_with
    from storage import check, queries

    settings = search.settings
    here = VERSIONS[settings.sampler]
    if here != settings.sampler_version:
        raise SettingsError(
            f"search {search.name} was drawn by version {settings.sampler_version} of the sampler "
            f"{settings.sampler}, here is version {here}: check it with netsieve {search.netsieve_version}"
        )
    sampler = sampler_of(settings, queries.listed(connection, search.id))
    judge = judge_with(sampler, settings.space.rules)
    report = check.check_search(connection, search.id, settings.recipe, judge)
    verdict = f"{len(report.wrong)} wrong" if report.wrong else "sound"
    numbers = f"{report.drawn:,} drawn = {report.distinct:,} distinct + {report.repeats:,} repeats"
    click.echo(f"{search.name}: {verdict}; {numbers}")
    for line in report.wrong[:MOST_SHOWN]:
        click.echo(f"  {line}")
    if len(report.wrong) > MOST_SHOWN:
        click.echo(f"  and {len(report.wrong) - MOST_SHOWN} more")
    return report.wrong
