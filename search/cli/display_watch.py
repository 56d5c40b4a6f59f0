"""What a person sees of a search that runs elsewhere: a live view on a terminal, a line a look elsewhere.

Both are written to stdout: they are what was asked for.
"""

import contextlib
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.cli.display import bar, clock_face, heading, pace
from search.cli.output import tell
from search.run import Best, Counts, Progress
from storage.queries import State
from storage.watching import AtWork, View

SHORTEST_S, LONGEST_S = 60.0, 3600.0  # of the window over which the rate is taken
ENOUGH = 10  # ends in the window, if that is not longer than LONGEST_S for it
FEW = 5  # ends, below which no time left is claimed
WIDE = 80  # columns, from which on all counts stand in one row
SHOWN = 5  # reasons, coordinators
FAILURES_SHOWN = 3

Line = Text | Table
STYLES = {State.FINISHED: "green", State.RUNNING: "cyan", State.STOPPED: "yellow"}


class Rate:
    """How fast candidates end, by the counts that were seen in a window that slides."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()  # moments, and how many had ended

    def look(self, moment_s: float, counts: Counts, state: State) -> None:
        """Take counts into account; a pause is no part of the window, nor are candidates opened again."""
        ended = counts.completed + counts.failed
        if state is not State.RUNNING or (self._seen and ended < self._seen[-1][1]):
            self._seen.clear()
        self._seen.append((moment_s, ended))
        while len(self._seen) > 2 and self._is_enough(*self._seen[1]):
            self._seen.popleft()

    def _is_enough(self, moment_s: float, ended: int) -> bool:
        """Whether a window from there on says all that is needed."""
        last_s, last = self._seen[-1]
        span_s = last_s - moment_s
        return span_s >= LONGEST_S or (span_s >= SHORTEST_S and last - ended >= ENOUGH)

    @property
    def span_s(self) -> float:
        """Of the window."""
        return self._seen[-1][0] - self._seen[0][0] if self._seen else 0.0

    @property
    def ended(self) -> int:
        """Candidates, in the window."""
        return self._seen[-1][1] - self._seen[0][1] if self._seen else 0

    def __str__(self) -> str:
        """What can be said, without counts."""
        if len(self._seen) < 2:
            return "no rate yet: it takes a second look"
        if not self.ended:
            return f"no rate yet: nothing has ended in the last {clock_face(self.span_s)}"
        return f"{self.ended:,} ended in the last {clock_face(self.span_s)}"


class WatchDisplay:
    """Shows one look after another; used as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._last: list[Line] = []

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with contextlib.suppress(OSError):
                self._live.stop()

    def show(self, title: str, view: View, rate: Rate, hint: str) -> None:
        """Show a look; ``hint`` is the next step for a search that is stopped."""
        if not self._live:
            click.echo(log_line(view, rate, hint))
            return
        self._last = picture(title, view, rate, hint, self._console.width)
        self._live.update(Group(*self._last), refresh=True)

    def away(self, cause: str) -> None:
        """Say that the database cannot be asked now, under what was seen last."""
        said = f"no database: {cause.partition('; ')[0]}; trying again"
        if self._live:
            self._live.update(Group(*self._last, Text(said, style="red")), refresh=True)
        else:
            tell(said)


def log_line(view: View, rate: Rate, hint: str) -> str:
    """A look in one line."""
    standing, counts = view.standing, view.standing.counts
    best = f", best {view.best[0].val_accuracy:.4f}" if view.best else ""
    further = {
        State.RUNNING: f"; {how_fast(view, rate)}",
        State.STOPPED: f"; {_printable(standing.stopped_because)}; go on with: {hint}",
        State.FINISHED: "",
    }
    return (
        f"{view.at:%H:%M:%S} UTC  {standing.state}: drawn {counts.drawn:,} of {counts.target:,}, "
        f"rejected {counts.rejected:,}, open {counts.open:,}, in flight {in_flight(view)}, "
        f"completed {counts.completed:,}, failed {counts.failed:,}{best}{further[standing.state]}"
    )


def how_fast(view: View, rate: Rate) -> str:
    """Candidates a minute and the time left, as far as they can be told, and from how much."""
    if rate.ended < FEW:
        return str(rate) if rate.ended == 0 else f"{rate}: too few to tell a rate"
    return f"{pace(progress_of(view, rate))}; {rate}"


def progress_of(view: View, rate: Rate) -> Progress:
    """A look as a run would show it; its time is the window."""
    best = [Best(row.index, row.val_accuracy or 0.0, row.val_loss or 0.0, row.layers) for row in view.best[:1]]
    return Progress(
        counts=view.standing.counts,
        best=best[0] if best else None,
        training=in_flight(view),
        workers=None,
        elapsed_s=rate.span_s,
        ended=rate.ended,
        stopping=None,
    )


def in_flight(view: View) -> int:
    """Candidates that are dispatched to workers."""
    return sum(one.in_flight for one in view.at_work)


# ------------------------------------------------------------------ the picture


def picture(title: str, view: View, rate: Rate, hint: str, width: int) -> list[Line]:
    """All that is shown, from top to bottom, so that a low terminal loses what matters least."""
    standing = view.standing
    state = Text(f"{standing.state} {view.at:%H:%M:%S} UTC", style=STYLES[standing.state])
    lines: list[Line] = [
        heading(title, state),
        bar(progress_of(view, rate)),
        _counts(standing.counts, width),
    ]
    if standing.state is State.RUNNING:
        lines.append(Text(how_fast(view, rate), style="dim"))
    elif standing.state is State.STOPPED:
        lines.append(Text(f"stopped: {_printable(standing.stopped_because)}", style="yellow"))
        lines.append(Text(f"go on with: {hint}", style="yellow"))
    for part in (_best(view), _coordinators(view), _reasons(view), _failures(view)):
        if part:
            lines += [Text(""), *part]
    return lines


def _counts(counts: Counts, width: int) -> Table:
    """The sieve, a column a number; on a narrow terminal in two rows."""
    cells = [
        ("drawn", f"{counts.drawn:,} of {counts.target:,}", ""),
        ("distinct", f"{counts.distinct:,}", "dim"),
        ("rejected", f"{counts.rejected:,}", "yellow"),
        ("completed", f"{counts.completed:,}", "green"),
        ("failed", f"{counts.failed:,}", "red" if counts.failed else "dim"),
        ("open", f"{counts.open:,}", "cyan"),
    ]
    table = Table.grid(padding=(0, 3))
    for row in [cells] if width >= WIDE else [cells[:3], cells[3:]]:
        table.add_row(*(Text(name, style="dim") for name, _, _ in row))
        table.add_row(*(Text(value, style=style) for _, value, style in row))
    return table


def _best(view: View) -> list[Line]:
    rows = [[f"{row.val_accuracy:.4f}", f"{row.val_loss:.4f}", f"{row.index}", row.layers] for row in view.best]
    return [_columns(("best", "loss", "index", "layers"), rows, {3})] if rows else []


def _reasons(view: View) -> list[Line]:
    rows = [[f"{row.candidates:,}", str(row.status), str(row.reason)] for row in view.reasons[:SHOWN]]
    return [_columns(("candidates", "status", "reason"), rows, {1, 2})] if rows else []


def _coordinators(view: View) -> list[Line]:
    if not view.at_work:
        return []
    lines: list[Line] = [
        _columns(
            ("at work", "for", "seen", "holds", "in flight", "oldest"),
            [_coordinator(view, one) for one in view.at_work[:SHOWN]],
            {0},
        )
    ]
    if len(view.at_work) > SHOWN:
        lines.append(Text(f"and {len(view.at_work) - SHOWN} more", style="dim"))
    return lines


def _coordinator(view: View, one: AtWork) -> list[str]:
    stopping = "stopping: " if one.stop_asked else ""
    oldest = _clock(view.at - one.oldest_dispatched_at) if one.oldest_dispatched_at else "-"
    return [
        f"{stopping}{one.pid} on {_printable(one.host)}",
        _clock(view.at - one.started_at),
        f"{_clock(view.at - one.seen_at)} ago",
        f"{one.holds:,}",
        f"{one.in_flight:,}",
        oldest,
    ]


def _failures(view: View) -> list[Line]:
    rows = [
        [f"{_clock(view.at - one.ended_at)} ago", f"{one.index}", one.reason, _printable(one.detail)]
        for one in view.failures[:FAILURES_SHOWN]
    ]
    return [_columns(("failed", "index", "reason", "detail"), rows, {2, 3})] if rows else []


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]], words: set[int]) -> Table:
    """Aligned columns, numbers to the right; those of words are cut where a terminal is narrow."""
    table = Table.grid(padding=(0, 2))
    for place in range(len(titles)):
        table.add_column(no_wrap=place not in words, justify="left" if place in words else "right")
    for number, row in enumerate([titles, *rows]):
        style = "" if number else "dim"
        table.add_row(*(Text(value, style=style, no_wrap=True, overflow="ellipsis") for value in row))
    return table


def _clock(time: timedelta) -> str:
    """A span of time; the clocks of two machines may differ, and none is negative."""
    return clock_face(max(time.total_seconds(), 0.0))


def _printable(text: str | None) -> str:
    """What a program or a person wrote, without what a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text or "")
