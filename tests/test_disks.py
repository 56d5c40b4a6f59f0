"""Real commands on disks that are full, that fail, and that cannot be written: a clear cause, and nothing is lost.

A small disk is a tmpfs in a mount namespace of the command's own, which needs the right to make one.
"""

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from storage.engine import open_for_writing
from tests.filled import fill

NETSIEVE = str(Path(sys.executable).with_name("netsieve"))
RECIPE = ["--dataset", "digits", "--epochs", "1", "--train-images", "300"]


@cache
def can_mount() -> bool:
    """Whether this user may mount a tmpfs in a namespace."""
    command = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mount = pytest.mark.skipif(not can_mount(), reason="may not mount a tmpfs here")


def on_a_disk_of(size: str, folder: Path, *commands: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run shell commands that see a disk of that size at ``folder``; the first one that fails is the last."""
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(folder))}"
    script = "\n".join(["set -e", mount, *commands])
    return run(["unshare", "--mount", "--map-root-user", "bash", "-c", script], **environment)


def run(
    command: list[str], limit: Callable[[], None] | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    settled = os.environ | environment
    return subprocess.run(
        command, capture_output=True, text=True, env=settled, preexec_fn=limit, timeout=200, check=False
    )


def netsieve(*words: str | Path) -> str:
    return shlex.join([NETSIEVE, *map(str, words)])


def rows(url: str) -> list[dict[str, Any]]:
    """The candidates, without what an interruption may change; the database must pass its check."""
    checked = run([NETSIEVE, "db", "check", "--db", url])
    assert checked.returncode == 0, checked.stdout
    answer = run([NETSIEVE, "candidates", "first", "--db", url, "--format", "json"])
    free = {"seconds", "attempts"}
    return [{key: value for key, value in row.items() if key not in free} for row in json.loads(answer.stdout)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a search on a good disk."""
    url = f"sqlite:///{tmp_path_factory.mktemp('good') / 'search.db'}"
    good = run([NETSIEVE, "run", "first", "--db", url, *RECIPE, "--candidates", "400", "--workers", "0"])
    assert good.returncode == 0, good.stderr
    return rows(url)


@needs_mount
def test_a_disk_that_fills_up_stops_the_run_and_resume_goes_on(
    tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    """Exit code 75 after --db-outage-limit, and what to do; once there is room, the rows are those of a good disk."""
    disk, database = tmp_path / "disk", tmp_path / "disk" / "search.db"
    options = ["--db", f"sqlite:///{database}", "--workers", "0"]
    begin = netsieve("run", "first", *options, *RECIPE, "--candidates", "400", "--db-outage-limit", "1s")
    went = on_a_disk_of(
        "256k",
        disk,
        f"{begin} || test $? = 75",
        f"mount -o remount,size=16m {disk}",
        netsieve("resume", "first", *options),
        f"cp {database} {tmp_path / 'copy.db'}",
    )
    assert went.returncode == 0, went.stderr
    assert "away for --db-outage-limit 1 s" in went.stderr
    assert "database or disk is full; make room on its disk" in went.stderr
    assert "Traceback" not in went.stderr
    assert rows(f"sqlite:///{tmp_path / 'copy.db'}") == undisturbed


def test_a_disk_that_fails_stops_the_run_and_resume_goes_on(tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    """Where a write is an I/O error, the run stops at once; the file's size limit (EFBIG) stands for a bad disk."""
    url = f"sqlite:///{tmp_path / 'search.db'}"
    size = 200_000  # bytes; the tables alone have less

    failed = run(
        [NETSIEVE, "run", "first", "--db", url, *RECIPE, "--candidates", "400", "--workers", "0"],
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert failed.returncode == 75, failed.stderr
    assert "disk I/O error; nothing recorded is lost, netsieve resume goes on" in failed.stderr.splitlines()[-2]
    assert "Traceback" not in failed.stderr
    to_type = failed.stderr.splitlines()[-1].removeprefix("go on with: ")
    assert to_type == f"netsieve resume first --db {url} --workers 0"
    went_on = run(shlex.split(to_type))
    assert went_on.returncode == 0, went_on.stderr
    assert rows(url) == undisturbed


@needs_mount
def test_a_disk_that_only_reads_is_refused_to_runs_and_answers_questions(tmp_path: Path) -> None:
    """A run names the file before anything starts; the ranking is read."""
    disk, database = tmp_path / "disk", tmp_path / "disk" / "search.db"
    options = ["--db", f"sqlite:///{database}"]
    went = on_a_disk_of(
        "16m",
        disk,
        netsieve("run", "first", *options, *RECIPE, "--candidates", "40", "--workers", "0"),
        f"mount -o remount,ro {disk}",
        f"{netsieve('resume', 'first', *options, '--candidates', '50')} || test $? = 2",
        netsieve("top", "first", *options),
    )
    assert went.returncode == 0, went.stderr
    assert f"{database} cannot be written to" in went.stderr
    assert "accuracy" in went.stdout.splitlines()[0]


@needs_mount
@pytest.mark.parametrize("size", ["20k", "256k"])  # full when the target is made; when rows are copied
def test_a_copy_to_a_full_disk_leaves_nothing_behind(tmp_path: Path, size: str) -> None:
    """It says what copies it, which is the same command, and no other; the target's files are gone."""
    source, disk = tmp_path / "source.db", tmp_path / "disk"
    engine = open_for_writing(f"sqlite:///{source}")
    fill(engine, draws=3_000)
    engine.dispose()
    merge = netsieve("merge", "filled", "--db", f"sqlite:///{source}", "--into", f"sqlite:///{disk / 'target.db'}")
    went = on_a_disk_of(
        size,
        disk,
        f"{merge} || test $? = 75",
        f"ls -A {disk}",
        f"mount -o remount,size=16m {disk}",
        f"{merge} > {tmp_path / 'counts'}",
    )
    assert (went.returncode, went.stdout) == (0, ""), went.stderr
    failed, merged = went.stderr.splitlines()
    assert failed.endswith("; nothing was copied, the same merge again copies all"), failed
    assert merged.startswith("search filled is copied into ")


@needs_mount
@pytest.mark.ray
def test_a_full_folder_of_rays_stops_the_run(tmp_path: Path) -> None:
    """Exit code 75 within seconds, with the folder, and what is left there."""
    url = f"sqlite:///{tmp_path / 'search.db'}"
    run_it = netsieve("run", "first", "--db", url, *RECIPE, "--candidates", "40", "--workers", "2")
    went = on_a_disk_of("100k", Path("/mnt"), run_it, RAY_TMPDIR="/mnt")  # a short name: there are sockets in it
    assert went.returncode == 75, went.stderr
    assert "; /mnt, where Ray keeps its logs, has 0.0 MiB left: make room, or set RAY_TMPDIR" in went.stderr


@needs_mount
@pytest.mark.ray
def test_little_shared_memory_is_enough(tmp_path: Path) -> None:
    """Docker gives a container 64 MB of /dev/shm; Ray's object store then lies on the disk."""
    url = f"sqlite:///{tmp_path / 'search.db'}"
    run_it = netsieve("run", "first", "--db", url, *RECIPE, "--candidates", "40", "--workers", "2")
    went = run(
        ["unshare", "--mount", "--map-root-user", "bash", "-c", f"mount -t tmpfs -o size=64m x /dev/shm; {run_it}"]
    )
    assert went.returncode == 0, went.stderr


@pytest.mark.ray
def test_a_folder_of_rays_with_a_long_name_stops_the_run(tmp_path: Path) -> None:
    """Sockets have short names; the run says so, and doctor finds it."""
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    url = f"sqlite:///{tmp_path / 'search.db'}"
    went = run([NETSIEVE, "run", "first", "--db", url, *RECIPE, "--candidates", "40"], RAY_TMPDIR=str(folder))
    assert went.returncode == 75
    assert "AF_UNIX path length cannot exceed" in went.stderr
    asked = run([NETSIEVE, "doctor", "--db", url], RAY_TMPDIR=str(folder))
    assert asked.returncode == 1
    assert "so Ray cannot start: set RAY_TMPDIR" in " ".join(asked.stdout.split())


@pytest.mark.ray
def test_a_folder_of_rays_that_cannot_be_made_stops_the_run(tmp_path: Path) -> None:
    """The cause is Ray's, in one line; where it is looked for makes no second error."""
    (tmp_path / "file").write_text("")
    url = f"sqlite:///{tmp_path / 'search.db'}"
    folder = str(tmp_path / "file" / "ray")
    went = run([NETSIEVE, "run", "first", "--db", url, *RECIPE, "--candidates", "40"], RAY_TMPDIR=folder)
    assert went.returncode == 75, went.stderr
    assert went.stderr.splitlines()[-1].startswith("Error: Ray does not start (NotADirectoryError: ")
    assert f"{folder}, where Ray keeps its logs: Not a directory; set RAY_TMPDIR" in went.stderr
