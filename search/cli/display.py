"""What a person sees of a run: one live display on a terminal, a line every ten seconds elsewhere.

Both write to stderr; stdout is for data.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.run import Away, Progress

LOG_EVERY_S = 10.0
REFRESH_EVERY_S = 0.25


class Display:
    """Shows progress; used as a context manager around a run."""

    def __init__(self, title: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._title = title
        self._clock = clock
        self._live: Live | None = None
        self._last: Progress | None = None
        self._shown = float("-inf")

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # Refreshed from this thread only: ray's log lines and signals come at any time.
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            self._shown = float("-inf")
            self(self._last)
        if self._live:
            with contextlib.suppress(OSError, SystemExit):
                self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``, if it is time to; the last one is shown at the end in any case.

        A log that nobody reads any more (rich ends the process for a broken pipe) does not end a run.
        """
        with contextlib.suppress(OSError, SystemExit):
            self._show(progress)

    def _show(self, progress: Progress) -> None:
        now = self._clock()
        self._last = progress
        if now - self._shown < (REFRESH_EVERY_S if self._live else LOG_EVERY_S):
            return
        self._shown = now
        if self._live:
            self._live.update(self._picture(progress), refresh=True)
        else:
            self._console.print(log_line(progress), highlight=False, soft_wrap=True)

    def _picture(self, progress: Progress) -> Group:
        state = "stopping" if progress.stopping else "running" if trainings_left(progress) else "done"
        right = Text(f"{state} {clock_face(progress.elapsed_s)}", style="cyan")
        lines: list[Text | Table] = [heading(self._title, right), bar(progress), numbers(progress)]
        if progress.best:
            best = progress.best
            lines.append(
                Text.assemble(
                    ("best ", "dim"),
                    (f"{best.val_accuracy:.4f}", "bold green"),
                    (f"  index {best.index}  ", "dim"),
                    best.layers,
                    no_wrap=True,
                    overflow="ellipsis",
                )
            )
        lines.append(Text(pace(progress), style="dim"))
        if progress.away:
            lines.append(Text(outage(progress.away), style="red"))
        if progress.stopping:
            lines.append(Text(f"{progress.stopping}: finishing what is in training", style="yellow"))
        return Group(*lines)


def heading(title: str, state: Text) -> Table:
    """What is searched, to the left, and how it stands."""
    table = Table.grid(expand=True)
    table.add_column(overflow="ellipsis", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(Text(title, style="bold"), state)
    return table


def bar(progress: Progress) -> Table:
    """A line as long as the terminal is wide, filled as far as all trainings are done."""
    table = Table.grid(expand=True)
    table.add_row(ProgressBar(total=1.0, completed=share_done(progress)))
    return table


def numbers(progress: Progress) -> Table:
    """How the search stands, a column a number."""
    counts = progress.counts
    table = Table.grid(padding=(0, 3))
    cells = (
        ("drawn", f"{counts.drawn:,} of {counts.target:,}", ""),
        ("repeats", f"{counts.repeats:,}", "dim"),
        ("rejected", f"{counts.rejected:,}", "yellow"),
        ("training", f"{progress.training}", "cyan"),
        ("done", f"{counts.completed:,}", "green"),
        ("failed", f"{counts.failed:,}", "red" if counts.failed else "dim"),
    )
    table.add_row(*(Text(name, style="dim") for name, _, _ in cells))
    table.add_row(*(Text(value, style=style) for _, value, style in cells))
    return table


def log_line(progress: Progress) -> str:
    """A run's progress in one line."""
    counts = progress.counts
    best = f", best {progress.best.val_accuracy:.4f}" if progress.best else ""
    away = f"; {outage(progress.away)}" if progress.away else ""
    stopping = f"; {progress.stopping}: finishing what is in training" if progress.stopping else ""
    return (
        f"{clock_face(progress.elapsed_s)}  drawn {counts.drawn:,} of {counts.target:,}, rejected {counts.rejected:,}, "
        f"training {progress.training}, done {counts.completed:,}, failed {counts.failed:,}{best}; "
        f"{pace(progress)}{away}{stopping}"
    )


def outage(away: Away) -> str:
    """How long the database has been away, what waits for it, and why; the next steps come when the run gives up."""
    results = f"{away.results:,} {'result waits' if away.results == 1 else 'results wait'}"
    return (
        f"no database for {clock_face(away.seconds)}, at most for {clock_face(away.limit_s)}, {results}: "
        f"{away.cause.partition('; ')[0]}"
    )


def pace(progress: Progress) -> str:
    """Candidates a minute, the time left, and how busy the workers are."""
    if progress.workers == 0 and not progress.stopping:  # of a cluster that has no room for one now
        return "waiting for a worker"
    if not progress.ended or not progress.elapsed_s:
        workers = f"{progress.workers} {'worker' if progress.workers == 1 else 'workers'}"
        return workers if progress.training else f"{workers} starting"
    per_second = progress.ended / progress.elapsed_s
    trainings = trainings_left(progress)
    left = f", about {clock_face(trainings / per_second)} left" if trainings and not progress.stopping else ""
    share = progress.worked.training_share
    busy = "" if share is None else f", {100 * share:.1f} % of worker time spent training"
    return f"{per_second * 60:.1f} candidates a minute{left}{busy}"


def trainings_left(progress: Progress) -> float:
    """Open candidates, and those that the draws to come will open, at the rate so far."""
    counts = progress.counts
    valid = counts.completed + counts.failed + counts.open
    return counts.open + (counts.target - counts.drawn) * (valid / counts.drawn if counts.drawn else 0)


def share_done(progress: Progress) -> float:
    """Of all trainings of the search, 0 to 1."""
    done, left = progress.counts.completed + progress.counts.failed, trainings_left(progress)
    return done / (done + left) if done + left else 0.0


def clock_face(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
