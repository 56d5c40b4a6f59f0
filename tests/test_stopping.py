"""Real processes, killed and interrupted: nothing recorded is lost, or done twice, and the end is the same."""

import contextlib
import fcntl
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NETSIEVE = Path(sys.executable).with_name("netsieve")
RECIPE = ["--dataset", "digits", "--candidates", "300", "--epochs", "3"]

Row = dict[str, Any]


class Search:
    """A search in a database of its own, run by processes."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.url = f"sqlite:///{folder / 'search.db'}"
        self.options = [*RECIPE, *options]
        self.log = folder / "log"

    def start(self) -> "subprocess.Popen[bytes]":
        command = [str(NETSIEVE), "run", "first", "--db", self.url, *self.options]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def finish(self) -> None:
        assert self.start().wait(timeout=250) == 0, self.log.read_text()

    def ask(self, *question: str) -> Any:
        answer = subprocess.run(
            [NETSIEVE, *question, "--db", self.url, "--format", "json"], capture_output=True, text=True, check=False
        )
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def rows(self) -> list[Row]:
        """The candidates, without what a kill may change."""
        rows = self.ask("candidates", "first") or []
        return [{key: value for key, value in row.items() if key not in {"seconds", "attempts"}} for row in rows]

    def ended(self) -> dict[int, Row]:
        return {row["index"]: row for row in self.rows() if row["status"] != "open"}

    def wait_for(self, status: str, at_least: int) -> None:
        """Until so many candidates have that status."""
        for _ in range(300):
            standing = self.ask("status", "first")
            if standing and standing[status] >= at_least:
                return
            time.sleep(0.2)
        pytest.fail(f"no {at_least} {status} candidates: {self.log.read_text()}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of a search that nobody disturbed."""
    search = Search(tmp_path_factory.mktemp("whole"), "--workers", "0")
    search.finish()
    return search.rows()


def kill_at_random(search: Search, kills: int, latest_s: float, seed: int) -> None:
    """Start and kill -9 so many times; what was recorded before each must stay as it was."""
    moments = random.Random(seed)
    recorded: dict[int, Row] = {}
    for _ in range(kills):
        process = search.start()
        time.sleep(moments.uniform(0.5, latest_s))
        children = descendants(process.pid)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the search ended before it could be killed: make it longer"
        wait_until_gone(children)
        now = search.ended()
        assert {index: now.get(index) for index in recorded} == recorded, f"a recorded row changed (seed {seed})"
        recorded = now
        standing = search.ask("status", "first")
        if standing:
            assert standing["state"] in {"stopped", "finished"}
            assert standing["distinct"] == len(search.rows())


def descendants(pid: int) -> set[int]:
    """The processes under a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    found, frontier = set[int](), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def wait_until_gone(pids: set[int], limit_s: float = 20.0) -> None:
    """Fail if a process is still there after the limit; a zombie is gone."""
    deadline = time.monotonic() + limit_s
    while left := {pid for pid in pids if alive(pid)}:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.2)


def alive(pid: int) -> bool:
    """Whether it runs; Ray's two agents do not count: they look for their dead parent now and then, for a minute."""
    try:
        agent = Path(f"/proc/{pid}/cmdline").read_bytes().startswith((b"ray::DashboardAgent", b"ray::RuntimeEnvAgent"))
        return not agent and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_ten_times_in_process(tmp_path: Path, uninterrupted: list[Row]) -> None:
    """Ten kill -9 at random moments, then a run to the end: the rows of an uninterrupted search."""
    search = Search(tmp_path, "--workers", "0")
    kill_at_random(search, kills=10, latest_s=7.0, seed=1)
    search.finish()
    assert search.rows() == uninterrupted
    assert search.ask("status", "first")["state"] == "finished"


@pytest.mark.ray
def test_killed_twice_with_ray(tmp_path: Path, uninterrupted: list[Row]) -> None:
    """Two kill -9 of a coordinator with Ray workers, which go with it; the same rows as in one process."""
    search = Search(tmp_path, "--workers", "2")
    kill_at_random(search, kills=2, latest_s=12.0, seed=2)
    search.finish()
    assert search.rows() == uninterrupted


EXECUTORS = [pytest.param("0", id="in-process"), pytest.param("2", id="ray", marks=pytest.mark.ray)]


@pytest.fixture(params=EXECUTORS)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Search, "subprocess.Popen[bytes]"]]:
    """A search whose trainings take long, with some recorded and some under way."""
    search = Search(tmp_path, "--workers", request.param, "--epochs", "20")
    process = search.start()
    search.wait_for("completed", 1)
    yield search, process
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_first_signal_finishes_what_is_training(
    running: tuple[Search, "subprocess.Popen[bytes]"], number: signal.Signals, code: int
) -> None:
    """It is recorded, the command to go on is printed, and nothing is left behind."""
    search, process = running
    before = len(search.ended())
    children = descendants(process.pid)
    os.killpg(process.pid, number)  # as a terminal does: the whole group
    assert process.wait(timeout=60) == code
    wait_until_gone(children)
    assert len(search.ended()) > before
    status = search.ask("status", "first")
    assert status["state"] == "stopped"
    assert status["stopped_because"] == f"interrupted by {number.name}"
    assert status["open"] > 0
    assert status["failed"] == 0
    assert f"go on with: netsieve resume first --db {search.url}" in search.log.read_text()
    assert "Traceback" not in search.log.read_text()


@pytest.mark.ray
def test_a_signal_to_the_group_does_not_reach_ray(tmp_path: Path) -> None:
    """Its servers are to serve until what is in training is finished; a busy machine takes longer than they wait."""
    search = Search(tmp_path, "--workers", "2")
    process = search.start()
    search.wait_for("completed", 1)
    children = descendants(process.pid)
    groups = {os.getpgid(child) for child in children}
    process.kill()
    process.wait()
    wait_until_gone(children)  # they end with it all the same
    assert len(groups) >= 4
    assert process.pid not in groups


def test_a_second_signal_stops_at_once(running: tuple[Search, "subprocess.Popen[bytes]"]) -> None:
    """Without waiting for what is in training."""
    search, process = running
    children = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    wait_until_gone(children)
    assert search.ask("status", "first")["state"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_ends_changes_no_exit_code(number: signal.Signals) -> None:
    """A second Ctrl-C may come when all is said, and Python has given its handlers back already."""
    script = f"""
import os, search.cli
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, {int(number)})
late = Late()
@search.cli.main.command()
def interrupted():
    raise KeyboardInterrupt
search.cli.main()
"""
    command = [sys.executable, "-c", script, "interrupted"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 130


@pytest.mark.ray
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_while_ray_starts_ends_the_run_at_once(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Nothing is recorded yet: no wait for Ray, no database, and none of Ray's processes is left."""
    search = Search(tmp_path, "--workers", "2")
    process = search.start()
    while "starting Ray" not in search.log.read_text():
        time.sleep(0.05)
    time.sleep(0.3)
    children = descendants(process.pid)
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    wait_until_gone(children)
    assert search.log.read_text().splitlines()[-1] == "Error: interrupted"
    assert not (tmp_path / "search.db").exists()


@pytest.mark.ray
def test_a_host_that_slept_goes_on(tmp_path: Path, uninterrupted: list[Row]) -> None:
    """SIGSTOP of the coordinator and all of Ray for a while, as when a laptop's lid is closed; nobody is blamed."""
    search = Search(tmp_path, "--workers", "2")
    process = search.start()
    search.wait_for("completed", 3)
    asleep = {process.pid, *descendants(process.pid)}
    for number, pause_s in ((signal.SIGSTOP, 20.0), (signal.SIGCONT, 0.0)):
        for pid in asleep:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(pause_s)
    assert process.wait(timeout=120) == 0
    assert search.rows() == uninterrupted


def test_a_second_coordinator_is_refused(running: tuple[Search, "subprocess.Popen[bytes]"]) -> None:
    """While one is at work on a search, another says who it is and exits."""
    search, process = running
    second = subprocess.run(
        [NETSIEVE, "resume", "first", "--db", search.url, "--workers", "0"], capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert f"is being run by process {process.pid}" in second.stderr


def test_a_locked_database_does_not_hold_up_a_stop_for_long(tmp_path: Path) -> None:
    """Nothing refuses, and nothing answers: the run ends with what it had recorded, and resume goes on."""
    search = Search(tmp_path, "--workers", "0", "--grace", "1s")
    process = search.start()
    search.wait_for("completed", 1)
    with (
        (tmp_path / "search.db-writer").open("a") as turn,
        contextlib.closing(sqlite3.connect(tmp_path / "search.db", isolation_level=None, timeout=30)) as other,
    ):
        fcntl.flock(turn, fcntl.LOCK_EX)
        other.execute("BEGIN IMMEDIATE")
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75
        other.execute("ROLLBACK")
    assert "results could not be recorded: " in search.log.read_text()
    assert "locked by another process" in search.log.read_text()
    assert search.ask("status", "first")["state"] == "stopped"


def test_grace_bounds_the_wait(tmp_path: Path) -> None:
    """A training that takes longer than --grace is abandoned, and open for the next run."""
    search = Search(tmp_path, "--workers", "0", "--epochs", "2000", "--grace", "1s")
    process = search.start()
    search.wait_for("open", 1)
    time.sleep(1.5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert time.monotonic() - began < 20
    assert search.ask("status", "first")["completed"] == 0
