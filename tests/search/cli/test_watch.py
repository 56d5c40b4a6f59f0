"""netsieve watch: what a person sees of a search that runs elsewhere, on a terminal and in a log."""

import io
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console, Group

from search.candidates import FailureReason, Status
from search.cli import main, watch
from search.cli.display_watch import Rate, how_fast, log_line, picture
from search.run import Counts
from storage import maintenance, queries
from storage.engine import open_for_writing
from storage.queries import CandidateRow, FailureCount, Standing, State
from storage.watching import AtWork, Failure, View
from tests.databases import PostgresServer
from tests.filled import fill
from tests.terminal import Terminal

NETSIEVE = Path(sys.executable).with_name("netsieve")
NOW = datetime(2026, 11, 25, 13, 2, 3, tzinfo=UTC)
COUNTS = Counts(target=10_000_000, drawn=7_654_321, rejected=6_000_000, completed=800_000, failed=200_000, open=4_321)
LAYERS = "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-maxpool=kernel_size:2,stride:2,padding:0-"
BUSY = View(
    at=NOW,
    standing=Standing(State.RUNNING, None, COUNTS),
    best=[CandidateRow(i, LAYERS, Status.COMPLETED, None, None, 9, 9, 0.1, 0.2, 0.99, 1, 1.0, 1) for i in range(5)],
    reasons=[FailureCount(Status.REJECTED, "kernel_exceeds_input", None, 6_000_000, 1, LAYERS)],
    at_work=[
        AtWork(f"node{n}.cluster.example.org", 4_194_304, NOW - timedelta(hours=3), NOW, n == 1, 1_024, 96,
               NOW - timedelta(seconds=75))
        for n in range(7)
    ],
    failures=[Failure(7_654_300, FailureReason.EXCEPTION, NOW - timedelta(seconds=5), "bad \x1b[31m " + "word " * 50)],
)  # fmt: skip


def netsieve(*words: str, url: str) -> Result:
    return CliRunner().invoke(main, [*words, "--db", url])


@pytest.fixture
def stopped(database_url: str) -> str:
    """A database of each kind with a search that was stopped."""
    engine = open_for_writing(database_url)
    fill(engine, draws=60)
    engine.dispose()
    return database_url


@pytest.fixture
def on_file(tmp_path: Path) -> str:
    """A file with a search that was stopped."""
    url = f"sqlite:///{tmp_path / 'search.db'}"
    engine = open_for_writing(url)
    fill(engine, draws=60)
    engine.dispose()
    return url


# ------------------------------------------------------------------ while it runs


def test_a_terminal_shows_a_run_of_another_process(tmp_path: Path) -> None:
    """Counts go up in place, with rate, best and who is at work; it ends with the search, and says so."""
    url = f"sqlite:///{tmp_path / 's.db'}"
    options = ["--dataset", "digits", "--candidates", "150", "--epochs", "1", "--workers", "0", "--db", url]
    with subprocess.Popen([NETSIEVE, "run", "first", *options], stderr=subprocess.DEVNULL) as run:
        for _ in range(300):
            if netsieve("status", "first", url=url).exit_code == 0:
                break
            time.sleep(0.1)
        terminal = Terminal()
        assert terminal.run([NETSIEVE, "watch", "first", "--interval", "0.3", "--db", url]) == 0
        assert run.wait(timeout=60) == 0
    live = [frame for frame in terminal.frames if "candidates a minute" in frame]
    assert len(live) >= 3
    assert all(frame.count("distinct") == 1 for frame in live[:-1])
    for words in ("first  digits, space classic, seed 0", "running", "ended in the last", "completed", "rejected",
                  "channels_exceed_side", f"{run.pid} on ", "in flight", "left"):  # fmt: skip
        assert words in live[-1]
    completed = [int(match[1]) for frame in live if (match := re.search(r"of 150 +\d+ +\d+ +(\d+)", frame))]
    assert completed == sorted(completed)
    assert len(set(completed)) >= 3
    assert terminal.text.endswith("search first is complete: 150 candidates drawn")
    assert "finished" in terminal.text


def test_a_log_gets_a_line_a_look(stopped: str) -> None:
    """Where stdout is no terminal: no control characters, and what stands in a line is what status says."""
    result = netsieve("watch", "filled", "--once", url=stopped)
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d UTC  stopped: drawn 60 of 60, rejected \d+, open 5, in flight 0, "
        r"completed \d+, failed \d+, best 0\.\d{4}; asked to; "
        r"go on with: netsieve resume filled --db \S+\n",
        result.stdout,
    )


def test_a_finished_search_ends_it(stopped: str) -> None:
    """At once, with exit code 0."""
    engine = open_for_writing(stopped)
    fill(engine, "done", draws=9, still_open=0)
    engine.dispose()
    result = netsieve("watch", "done", url=stopped)
    assert (result.exit_code, result.stderr) == (0, "search done is complete: 9 candidates drawn\n")
    assert "finished: drawn 9 of 9" in result.stdout


def test_an_unknown_search_is_refused(stopped: str) -> None:
    """With the names that there are."""
    result = netsieve("watch", "nobody", url=stopped)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "NAME 'nobody': no such search in this database; there is filled" in result.stderr


# ------------------------------------------------------------------ how it ends


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_search_is_waited_for_until_a_signal(number: signal.Signals, code: int, on_file: str) -> None:
    """It says why it stopped and what goes on with it; the signal ends it without a word, the cursor is back."""
    terminal = Terminal(60)

    def end() -> None:
        while sum("go on with" in frame for frame in terminal.frames) < 3:
            time.sleep(0.05)
        terminal.process.send_signal(number)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    assert terminal.run([NETSIEVE, "watch", "filled", "--interval", "0.2", "--db", on_file]) == code
    thread.join()
    text = " ".join(terminal.text.split())
    assert "stopped: asked to go on with: netsieve resume filled --db sqlite:///" in text
    assert "interrupted" not in terminal.text
    assert "Traceback" not in terminal.text
    assert not terminal.screen.cursor.hidden


def slept(monkeypatch: pytest.MonkeyPatch, *then: object) -> None:
    """Instead of waiting for the next look, do these one after the other; after the last one, interrupt."""
    steps = iter(then)

    def sleep(_seconds: float) -> None:
        step = next(steps, None)
        if step is None:
            raise SystemExit(130)
        step()  # type: ignore[operator]

    monkeypatch.setattr(watch.time, "sleep", sleep)


def test_a_search_that_is_deleted_ends_it(stopped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line and exit code 1; so does one that was made anew under its name."""

    def delete() -> None:
        engine = open_for_writing(stopped)
        with engine.connect() as connection:
            found = queries.require(connection, "filled")
        maintenance.delete(engine, found)
        engine.dispose()

    def anew() -> None:
        delete()
        engine = open_for_writing(stopped)
        fill(engine, draws=9)
        engine.dispose()

    slept(monkeypatch, anew)
    result = netsieve("watch", "filled", url=stopped)
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: search filled was deleted; netsieve list shows what is there\n",
    )
    if stopped.startswith("sqlite"):  # which numbers the new one as the old one
        slept(monkeypatch, delete)
        assert netsieve("watch", "filled", url=stopped).exit_code == 1


def test_a_database_file_that_is_deleted_ends_it(on_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line and exit code 1: it will not come back by itself."""
    slept(monkeypatch, (tmp_path / "search.db").unlink)
    result = netsieve("watch", "filled", url=on_file)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: search filled cannot be watched any more: --db ")
    assert result.stderr.count("\n") == 1


# ------------------------------------------------------------------ the database is away


def test_a_database_that_is_away_is_waited_for(postgres_server: PostgresServer) -> None:
    """A server that crashes and comes back: it says so at each look, and goes on."""
    url = postgres_server.new_database()
    engine = open_for_writing(url)
    fill(engine, draws=20)
    engine.dispose()
    command = [NETSIEVE, "watch", "filled", "--interval", "0.2", "--db", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "stopped: drawn" in process.stdout.readline()
        postgres_server.crash(seconds_down=1.5)
        for _ in range(20):  # more than were waiting to be read
            assert "stopped: drawn" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        said = process.stderr.read().splitlines() if process.stderr else []
    assert len(said) >= 2
    assert all(line.startswith("no database: ") and line.endswith("; trying again") for line in said)


def test_a_database_that_is_away_at_the_start_ends_it() -> None:
    """The URL may be wrong: exit code 75, and what to look at."""
    result = netsieve("watch", "filled", url="postgresql://localhost:1/none")
    assert result.exit_code == 75
    assert "is the server started" in result.stderr


# ------------------------------------------------------------------ the picture


@pytest.mark.parametrize("width", [60, 80, 110])
def test_it_fits_a_narrow_terminal(width: int) -> None:
    """Ten million candidates in 60 columns: no line is longer, no number is cut, control characters are shown."""
    console = Console(width=width, height=40, color_system=None, record=True, file=io.StringIO())
    console.print(Group(*picture("first  digits, space classic, seed 0", BUSY, Rate(), "netsieve resume first", width)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for words in ("7,654,321 of 10,000,000", "7,004,321", "6,000,000", "800,000", "200,000", "4,321", "0.9900",
                  "3:00:00", "1,024", "96", "1:15", "kernel_exceeds_input", "and 2 more", "0:05 ago", "stopping: ",
                  "\\x1b"):  # fmt: skip
        assert words in text, words


def test_a_line_of_a_log_says_it_all() -> None:
    """State, counts, what is in flight, best, and what can be said of the rate."""
    assert log_line(BUSY, Rate(), "netsieve resume first") == (
        "13:02:03 UTC  running: drawn 7,654,321 of 10,000,000, rejected 6,000,000, open 4,321, in flight 672, "
        "completed 800,000, failed 200,000, best 0.9900; no rate yet: it takes a second look"
    )


# ------------------------------------------------------------------ the rate


def seen(*looks: tuple[float, int], state: State = State.RUNNING) -> Rate:
    """A rate after looks: at a second, so many completed."""
    rate = Rate()
    for moment, completed in looks:
        rate.look(moment, replace(COUNTS, completed=completed, failed=0), state)
    return rate


def test_a_rate_says_when_it_cannot_tell() -> None:
    """After one look, when nothing ended, and with too few ends for a time left."""
    assert how_fast(BUSY, seen((0, 5))) == "no rate yet: it takes a second look"
    assert how_fast(BUSY, seen((0, 5), (90, 5))) == "no rate yet: nothing has ended in the last 1:30"
    assert how_fast(BUSY, seen((0, 5), (10, 8))) == "3 ended in the last 0:10: too few to tell a rate"


def test_a_rate_is_of_the_window_and_claims_a_time_left() -> None:
    """Sixty seconds, or as long as it takes for ten ends; what was before does not count."""
    steady = seen(*((second, second) for second in range(0, 601, 2)))
    assert (steady.span_s, steady.ended) == (60, 60)
    assert re.fullmatch(
        r"60\.0 candidates a minute, about [\d:]+ left; 60 ended in the last 1:00", how_fast(BUSY, steady)
    )
    slow = seen(*((minute * 60, minute // 2) for minute in range(61)))
    assert slow.ended in {10, 11}


def test_a_pause_is_no_part_of_the_window() -> None:
    """Neither while a search is stopped, nor where candidates were opened again."""
    rate = seen((0, 0), (30, 30))
    rate.look(40, COUNTS, State.STOPPED)
    assert rate.ended == 0
    assert seen((0, 50), (10, 60), (20, 40), (30, 45)).ended == 5
