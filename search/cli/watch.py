"""The command that looks at a search while it runs elsewhere: watch. It asks the database, and nothing else."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from search.cli.output import tell
from search.cli.parameters import Duration, database_option, name_argument
from search.cli.results import reading, shown_url
from search.cli.signals import ending_quietly
from search.errors import DatabaseAway, DatabaseError, DatabaseLost, Stopped

if TYPE_CHECKING:
    from search.cli.display_watch import WatchDisplay
    from storage.queries import SearchRow
    from storage.watching import View


@click.command("watch")
@name_argument()
@click.option("--interval", type=Duration(), default="2s", show_default=True, help="Time between two looks.")
@click.option("--once", is_flag=True, help="Look once, and end.")
@database_option()
@click.pass_context
def watch_search(ctx: click.Context, name: str, interval: float, once: bool, url: str) -> None:
    """Watch the search NAME, which runs elsewhere, until it is finished.

    It reads the database alone, from any machine: counts, rate, the best, why others are rejected, who is
    at work. Where stdout is no terminal it prints a line a look. Ctrl-C ends it, not the search.
    """
    from search.cli.display_watch import WatchDisplay

    resume = ["netsieve", "resume", name]
    if ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        resume += ["--db", shown_url(url)]
    with ending_quietly():
        with WatchDisplay() as display:
            last = _watch(Watched(url, name), display, shlex.join(resume), interval, once)
        if last is not None:
            tell(f"search {name} is complete: {last.standing.counts.drawn:,} candidates drawn")


class Watched:
    """A search that is looked at again and again, each time in a new and short snapshot."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._known: SearchRow | None = None

    def look(self) -> "View":
        """How it stands. Raises UnknownSearch, DatabaseError at first, DatabaseLost later; Stopped: try again."""
        from storage import queries, watching
        from storage.engine import serves_many_machines

        try:
            with reading(self._url) as connection:
                found = queries.find(connection, self._name) if self._known else queries.require(connection, self._name)
                if found is None or (self._known and found.created_at != self._known.created_at):
                    raise DatabaseLost(f"search {self._name} was deleted; netsieve list shows what is there")
                self._known = found
                return watching.view(connection, found.id)
        except DatabaseError as error:
            if self._known is None:
                raise
            if serves_many_machines(self._url):  # a server that restarts refuses connections in many words
                raise DatabaseAway(str(error)) from None
            raise DatabaseLost(f"search {self._name} cannot be watched any more: {error}") from None

    @property
    def title(self) -> str:
        """What it searches, once it was looked at."""
        assert self._known is not None
        settings = self._known.settings
        return f"{self._name}  {Path(settings.dataset).name}, space {settings.space.name}, seed {settings.seed}"


def _watch(watched: Watched, display: "WatchDisplay", resume: str, interval_s: float, once: bool) -> "View | None":
    """Look and show until the search is finished; the last look then, None after a single one."""
    from search.cli.display_watch import Rate

    rate = Rate()
    is_first = True
    while True:
        try:
            view = watched.look()
        except Stopped as error:
            if is_first:
                raise
            display.away(str(error))
        else:
            is_first = False
            rate.look(time.monotonic(), view.standing.counts, view.standing.state)
            display.show(watched.title, view, rate, resume)
            if view.standing.state == "finished":
                return view
        if once:
            return None
        time.sleep(interval_s)
