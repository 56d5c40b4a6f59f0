"""Commands that change searches from outside: stop, delete, db, ``--retry`` and ``--join``; on both databases."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from search.cli import main
from storage.engine import open_for_writing
from storage.schema import attempt, candidate, coordinator, tally
from tests.databases import PostgresServer, admin

NETSIEVE = Path(sys.executable).with_name("netsieve")
SHORT = ["--dataset", "digits", "--candidates", "20", "--epochs", "1", "--workers", "0"]
LONG = ["--dataset", "digits", "--candidates", "2000", "--epochs", "3", "--workers", "0"]
PASSWORD = "hunter2%40"


def netsieve(*words: str, url: str, **more: str) -> Result:
    return CliRunner().invoke(main, [*words, "--db", url], **more)  # type: ignore[arg-type]


def asked(url: str, *question: str) -> dict[str, object]:
    answer = netsieve(*question, "--format", "json", url=url)
    assert answer.exit_code == 0, answer.output
    found: dict[str, object] = json.loads(answer.stdout)
    return found


def wait_for(url: str, what: Callable[[dict[str, object]], bool]) -> None:
    """Until the search is there and stands so."""
    for _ in range(300):
        if netsieve("status", "first", url=url).exit_code == 0 and what(asked(url, "status", "first")):
            return
        time.sleep(0.1)
    pytest.fail(f"the search does not begin: {netsieve('status', 'first', url=url).output}")


@pytest.fixture
def finished(database_url: str) -> str:
    """A database with a finished search."""
    result = netsieve("run", "first", *SHORT, url=database_url)
    assert result.exit_code == 0, result.output
    return database_url


@pytest.fixture
def running(database_url: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs a long search, and has recorded something."""
    command = [NETSIEVE, "run", "first", *LONG, "--db", database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(300):
            if (
                netsieve("status", "first", url=database_url).exit_code == 0
                and asked(database_url, "status", "first")["completed"]
            ):
                break
            time.sleep(0.2)
        yield process
        process.kill()


# ------------------------------------------------------------------ stop


def test_stop_drains_a_search_and_waits(running: "subprocess.Popen[str]", database_url: str) -> None:
    """What is in training is finished; the run ends with exit code 0 and says why, and so does status."""
    result = netsieve("stop", "first", url=database_url)
    assert result.exit_code == 0
    assert f"asked process {running.pid} on " in result.stderr
    assert "search first is stopped" in result.stderr
    assert running.wait(timeout=10) == 0
    assert "stopped: netsieve stop; go on with: netsieve resume first" in str(running.stderr and running.stderr.read())
    standing = asked(database_url, "status", "first")
    assert (standing["state"], standing["stopped_because"]) == ("stopped", "netsieve stop")
    assert netsieve("db", "check", url=database_url).exit_code == 0


def test_stop_without_a_run_says_so(finished: str) -> None:
    """There is nothing to wait for."""
    result = netsieve("stop", "first", url=finished)
    assert (result.exit_code, result.stderr) == (0, "search first is not being run\n")
    assert netsieve("stop", "second", url=finished).exit_code == 2


# ------------------------------------------------------------------ delete


def test_delete_asks_first(finished: str) -> None:
    """Without a terminal it needs --yes; afterwards nothing of the search is left, and others are whole."""
    netsieve("run", "second", *SHORT, url=finished)
    refused = netsieve("delete", "first", url=finished)
    assert (refused.exit_code, refused.stderr) == (
        2,
        "Error: delete first: there is no terminal to ask on; give --yes\n",
    )
    assert netsieve("delete", "first", "--yes", url=finished).stderr == "search first is deleted\n"
    assert netsieve("status", "first", url=finished).exit_code == 2
    assert netsieve("db", "check", url=finished).stdout.startswith("second: sound; 20 drawn")
    assert netsieve("run", "first", *SHORT, url=finished).exit_code == 0


@pytest.mark.parametrize(("answer", "left"), [("n\n", 1), ("y\n", 0)])
def test_delete_heeds_the_answer(answer: str, left: int, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a person decides."""
    monkeypatch.setattr("search.cli.maintain._can_ask", lambda: True)
    result = netsieve("delete", "first", url=finished, input=answer)
    assert "Delete search first with 20 candidates" in result.stderr
    assert len(json.loads(netsieve("list", "--format", "json", url=finished).stdout)) == left


def test_delete_leaves_what_took_the_number_of_the_deleted(finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the question stands, somebody else deletes the search and makes another one; also of the same name."""
    for name in ("second", "first"):

        def meanwhile(*_: object, name: str = name, **__: object) -> bool:
            assert netsieve("delete", "first", "--yes", url=finished).exit_code == 0
            assert netsieve("run", name, *SHORT, url=finished).exit_code == 0
            return True

        with monkeypatch.context() as patched:
            patched.setattr("search.cli.maintain._can_ask", lambda: True)
            patched.setattr("click.confirm", meanwhile)
            result = netsieve("delete", "first", url=finished)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.endswith("Error: search first was deleted meanwhile; netsieve list shows what is there\n")
        assert [row["name"] for row in json.loads(netsieve("list", "--format", "json", url=finished).stdout)] == [name]
        if name == "second":
            netsieve("delete", "second", "--yes", url=finished)
            netsieve("run", "first", *SHORT, url=finished)


def test_a_running_search_is_not_deleted(running: "subprocess.Popen[str]", database_url: str) -> None:
    """It names who runs it."""
    result = netsieve("delete", "first", "--yes", url=database_url)
    assert result.exit_code == 2
    assert f"is being run by process {running.pid} on " in result.stderr


# ------------------------------------------------------------------ retry


def fail_some(url: str, reason: str, number: int) -> list[int]:
    """Let completed candidates have failed twice, as a search would have recorded it; which."""
    engine = open_for_writing(url)
    with engine.begin() as connection:
        some = sa.select(candidate.c.draw_index).where(candidate.c.status == "completed").limit(number)
        indices = list(connection.scalars(some))
        empty = dict.fromkeys(("train_loss", "val_loss", "val_accuracy", "curve"), None)
        connection.execute(
            candidate.update()
            .where(candidate.c.draw_index.in_(indices))
            .values(status="failed", reason=reason, detail="as told", epochs=0, attempts=2, **empty)
        )
        connection.execute(
            tally.update().where(tally.c.status == "completed").values(candidates=tally.c.candidates - number)
        )
        connection.execute(
            tally.insert().values(search_id=1, status="failed", reason=reason, layer=-1, candidates=number,
                                  first_index=min(indices))
        )  # fmt: skip
        now = connection.scalar(sa.select(coordinator.c.started_at))
        connection.execute(
            attempt.insert(),
            [
                {"search_id": 1, "draw_index": index, "number": n, "epoch": 1, "coordinator_id": 1, "isolated": False,
                 "dispatched_at": now, "ending": reason, "detail": "as told"}
                for index in indices for n in (1, 2)
            ],
        )  # fmt: skip
    engine.dispose()
    return indices


def test_retry_opens_failures_again_and_keeps_their_attempts(finished: str) -> None:
    """Only those of the named reasons; the table is that of a search in which they did not fail."""
    before = netsieve("candidates", "first", "--format", "csv", url=finished).stdout
    timed_out = fail_some(finished, "timeout", 2)
    out_of_memory = fail_some(finished, "out_of_memory", 1)
    assert netsieve("resume", "first", "--workers", "0", url=finished).exit_code == 0
    assert asked(finished, "status", "first")["failed"] == 3
    result = netsieve("resume", "first", "--workers", "0", "--retry", "timeout, worker_died", url=finished)
    assert result.exit_code == 0
    assert "opened 2 failed candidates again (timeout, worker_died)" in result.stderr
    standing = asked(finished, "status", "first")
    assert (standing["failed"], standing["open"]) == (1, 0)
    assert netsieve("db", "check", url=finished).exit_code == 0
    engine = open_for_writing(finished)
    with engine.begin() as connection:
        left = connection.execute(sa.select(attempt.c.draw_index, attempt.c.ending, attempt.c.forgiven)).all()
    engine.dispose()
    expected = [(index, "timeout", True) for index in timed_out] + [(out_of_memory[0], "out_of_memory", False)]
    assert sorted(set(map(tuple, left))) == sorted(expected)
    assert len(left) == 6
    netsieve("resume", "first", "--workers", "0", "--retry", "out_of_memory", url=finished)
    after = netsieve("candidates", "first", "--format", "csv", url=finished).stdout
    assert without_times(after) == without_times(before)


def without_times(table: str) -> list[str]:
    """The rows without seconds and attempts, the last two columns."""
    return [line.rsplit(",", 2)[0] for line in table.splitlines()]


# ------------------------------------------------------------------ several coordinators


def test_a_second_run_is_refused_on_sqlite_and_welcome_on_postgres(
    running: "subprocess.Popen[str]", database_url: str
) -> None:
    """With --join it is welcome on the same machine; both end, and every row is right."""
    alone = [NETSIEVE, "run", "first", "--workers", "0", "--max-completed", "30", "--db", database_url]
    second = subprocess.run(alone, capture_output=True, text=True, check=False)
    if database_url.startswith("sqlite"):
        assert second.returncode == 2
        assert re.search(rf"is being run by process {running.pid} on \S+ since .* --join", second.stderr)
        second = subprocess.run([*alone, "--join"], capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 143
    assert netsieve("db", "check", url=database_url).exit_code == 0
    assert asked(database_url, "status", "first")["completed"] >= 30  # type: ignore[operator]


# ------------------------------------------------------------------ the database goes away


def test_a_run_outlives_an_outage(postgres_server: PostgresServer) -> None:
    """The server is away for a while: the run waits and finishes. A shorter limit: exit 75, and resume goes on."""
    url = postgres_server.new_database()
    options = ["--dataset", "digits", "--candidates", "150", "--epochs", "2", "--workers", "0", "--db", url]
    for limit, code in (("1s", 75), ("60s", 0)):
        command = [NETSIEVE, "run", "first", *options, "--db-outage-limit", limit]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            for _ in range(300):
                if (
                    netsieve("status", "first", url=url).exit_code == 0
                    and asked(url, "status", "first")["state"] == "running"
                ):
                    break
                time.sleep(0.1)
            time.sleep(1.5)
            postgres_server.crash(seconds_down=4.0)
            said = str(process.stderr and process.stderr.read())
            assert process.wait(timeout=100) == code, said
        if code:
            assert "the database was away for --db-outage-limit 1 s: " in said
            assert "netsieve resume" in said
            assert asked(url, "status", "first")["open"] != 0
    assert asked(url, "status", "first")["state"] == "finished"
    assert netsieve("db", "check", url=url).exit_code == 0


# ------------------------------------------------------------------ secrets


def test_a_password_is_shown_nowhere(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """Neither in what is printed, with and without a terminal's width, nor in the database; typed, it is warned of."""
    name = sa.make_url(postgres_server.new_database()).database
    admin(postgres_server.get_uri(), f"CREATE ROLE searcher SUPERUSER LOGIN PASSWORD '{PASSWORD.replace('%40', '@')}'")
    host = sa.make_url(postgres_server.get_uri()).query["host"]
    url = f"postgresql://searcher:{PASSWORD}@/{name}?host={host}"
    wrong = f"postgresql://searcher:{PASSWORD}@/no_such_{name}?host={host}"
    said = ""
    for command in (
        ["run", "first", *SHORT],
        ["run", "first", *SHORT, "--seed", "9"],
        ["resume", "first", "--retry", "timeout", "--workers", "0"],
        ["top", "first"], ["doctor"], ["db", "check"], ["db", "upgrade"], ["stop", "first"], ["status", "nobody"],
    ):  # fmt: skip
        for target in (url, wrong):
            result = netsieve(*command, url=target)
            said += result.output
            assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "a password on the command line shows in the list of processes" in said
    assert "searcher:***@" in said
    environment = {**os.environ, "NETSIEVE_DB": url}
    quiet = subprocess.run(
        [NETSIEVE, "run", "second", *SHORT], env=environment, capture_output=True, text=True, check=True
    )
    assert "command line" not in quiet.stderr
    said += quiet.stdout + quiet.stderr
    engine = open_for_writing(url)
    with engine.connect() as connection:
        for table in sa.inspect(engine).get_table_names():
            said += str(connection.exec_driver_sql(f"SELECT * FROM {table}").all())
    engine.dispose()
    for secret in ("hunter2", PASSWORD):
        assert secret not in said
