"""What a person sees of a run, on a terminal and in a log."""

import io
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from search.cli.display import Display, clock_face, log_line, pace, share_done, trainings_left
from search.messages import WorkerTime
from search.run import Best, Counts, Progress
from tests.terminal import Terminal

NETSIEVE = Path(sys.executable).with_name("netsieve")
HALF = Progress(
    counts=Counts(target=1000, drawn=600, rejected=400, completed=80, failed=2, open=18),
    best=Best(17, 0.9528, 0.2, "dropout=p:0.2-"),
    training=2,
    workers=2,
    elapsed_s=60.0,
    ended=41,
    stopping=None,
)


def test_a_terminal_shows_one_live_display(tmp_path: Path) -> None:
    """It counts up in place, shows the best and the pace, and closes with the top five and what to type next."""
    terminal = Terminal()
    options = ["--db", f"sqlite:///{tmp_path / 's.db'}", "--workers", "0", "--dataset", "digits"]
    code = terminal.run([NETSIEVE, "run", "first", *options, "--candidates", "60", "--epochs", "2"])
    assert code == 0
    live = [frame for frame in terminal.frames if "candidates a minute" in frame]
    assert len(live) >= 5
    assert all(frame.count("rejected") == 1 for frame in live[:-1])
    for name in ("drawn", "repeats", "rejected", "training", "done", "failed", "best 0.", "left"):
        assert name in live[len(live) // 2]
    assert "60 of 60" in terminal.text
    assert "rank  accuracy" in terminal.text
    assert "search first is complete: 60 candidates drawn" in terminal.text
    assert "netsieve top first" in terminal.text
    assert max(len(line) for line in terminal.text.splitlines()) <= 110


def test_a_log_gets_a_line_every_ten_seconds() -> None:
    """Without a terminal: no control characters, and not more often."""
    written, now = io.StringIO(), [0.0]
    with Display("title", Console(file=written), clock=lambda: now[0]) as display:
        for second in range(25):
            now[0] = float(second)
            display(HALF)
    lines = written.getvalue().splitlines()
    assert len(lines) == 4  # at 0, 10 and 20 seconds, and at the end
    assert set(lines) == {log_line(HALF)}
    assert "\x1b" not in written.getvalue()


def test_a_log_line_says_it_all() -> None:
    """Time, counts, best, pace and time left."""
    assert log_line(HALF) == (
        "1:00  drawn 600 of 1,000, rejected 400, training 2, done 80, failed 2, best 0.9528; "
        "41.0 candidates a minute, about 2:04 left"
    )


def test_the_pace_says_how_busy_the_workers_are() -> None:
    """Once they have told."""
    assert pace(replace(HALF, worked=WorkerTime(200.0, 197.4))).endswith(", 98.7 % of worker time spent training")


def test_time_left_counts_what_is_still_to_be_drawn() -> None:
    """18 open, and of 400 draws to come as many valid as before: 100 of 600."""
    assert math.isclose(trainings_left(HALF), 18 + 400 * 100 / 600)
    assert round(share_done(HALF), 3) == round(82 / (82 + 18 + 400 * 100 / 600), 3)


def test_a_start_claims_no_pace() -> None:
    """Before anything ended there is nothing to extrapolate from."""
    counts = Counts(target=10, drawn=0, rejected=0, completed=0, failed=0, open=0)
    start = Progress(counts, None, 0, 2, 0.0, 0, None)
    assert pace(start) == "2 workers starting"
    assert pace(replace(start, workers=0)) == "waiting for a worker"
    assert share_done(start) == 0.0


def test_times_are_read_as_clocks() -> None:
    """Minutes and seconds, and hours from an hour on."""
    assert [clock_face(seconds) for seconds in (0, 59.6, 3599, 3661)] == ["0:00", "1:00", "59:59", "1:01:01"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_of_any_encoding_is_shown_what_it_can_show(place: Path, encoding: str) -> None:
    """A curve's blocks are no reason to end half way."""
    made = [NETSIEVE, "run", "first", "--dataset", "digits", "--candidates", "8", "--epochs", "2", "--workers", "0"]
    subprocess.run(made, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    top = subprocess.run([NETSIEVE, "top", "first", "--format", "json"], check=True, capture_output=True)
    index = str(json.loads(top.stdout)[0]["index"])
    shown = subprocess.run([NETSIEVE, "show", "first", index], check=True, capture_output=True, env=environment)
    assert b"val_accuracy  " in shown.stdout


def test_strings_from_a_closed_stdin_are_refused() -> None:
    """In one line, as any other input that is none."""
    asked = subprocess.run(f"{NETSIEVE} check - <&-", shell=True, check=False, capture_output=True, text=True)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.startswith("Error: STRING -: stdin is closed")
