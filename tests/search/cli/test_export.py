"""netsieve export, and DataFrames: the same rows as ``candidates``, whole files or none."""

import csv
import gc
import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result
from pyarrow import parquet

from search.cli import files, writers
from search.cli.export import Progress
from search.errors import NotWritten, SettingsError, UnknownSearch
from storage import frames
from storage.engine import open_for_reading, open_for_writing
from storage.selection import FIELDS, Field, Selection, select
from tests.filled import SETTINGS, fill

Cli = Callable[..., Result]
NETSIEVE = Path(sys.executable).with_name("netsieve")
MEASURED = ["index", "layers", "epoch", "train_loss", "val_loss", "val_accuracy"]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a search that has rows of every kind, and one that has none."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'search.db'}"
    else:
        url = str(request.getfixturevalue("postgres_server").new_database())
    writer = open_for_writing(url)
    fill(writer)
    fill(writer, "empty", draws=0)
    writer.dispose()
    return url


@pytest.fixture
def told(cli: Cli, filled: str) -> Callable[..., list[dict[str, Any]]]:
    """What ``candidates`` says of all fields."""

    def ask(*words: str, columns: Sequence[str] = FIELDS) -> list[dict[str, Any]]:
        command = ("candidates", "filled", "--format", "json", "--columns", ",".join(columns), "--db", filled)
        return list(json.loads(cli(*command, *words).stdout))

    return ask


def read(text: str) -> list[dict[str, Any]]:
    """CSV, with the numbers as numbers and None for nothing."""
    rows = csv.DictReader(io.StringIO(text))
    numbers = set(FIELDS) - {"layers", "status", "reason", "detail"} | {"epoch"}
    return [
        {key: (json.loads(value) if key in numbers else value) if value else None for key, value in row.items()}
        for row in rows
    ]


def of_frame(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A DataFrame's rows, None for what is missing."""
    return [
        {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


# ------------------------------------------------------------------ what is written


@pytest.mark.parametrize("selected", [(), ("--where", "status!=rejected", "--sort", "-val_accuracy,macs")])
def test_every_format_says_what_candidates_says(
    cli: Cli, filled: str, place: Path, told: Callable[..., Any], selected: tuple[str, ...]
) -> None:
    """CSV, JSON lines and Parquet, to files and to stdout, and a DataFrame: all fields, in the same order."""
    expected = told(*selected)
    assert len(expected) > 50
    command = ("export", "filled", *selected, "--db", filled)
    assert read(cli(*command).stdout) == expected
    assert [json.loads(line) for line in cli(*command, "--format", "jsonl").stdout.splitlines()] == expected
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        result = cli(*command, "--out", name)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == f"{name}: {len(expected):,} rows\n"
    assert read((place / "rows.csv").read_text()) == expected
    assert [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()] == expected
    assert parquet.read_table(place / "rows.parquet").to_pylist() == expected
    where, sort = (selected[1], selected[3]) if selected else ((), None)
    assert of_frame(frames.candidates(filled, "filled", where=where, sort=sort)) == expected


def test_measurements_are_a_row_an_epoch(cli: Cli, filled: str, place: Path) -> None:
    """Those that ``show`` gives, under the candidate's index and layers, in every format."""
    rows = read(cli("export", "filled", "--measurements", "--db", filled).stdout)
    assert list(rows[0]) == MEASURED
    shown = [rows[0]["index"], rows[-1]["index"]]
    for index in shown:
        answer = json.loads(cli("show", "filled", index, "--format", "json", "--db", filled).stdout)
        known = {"index": index, "layers": answer["layers"]}
        assert [row for row in rows if row["index"] == index] == [{**known, **m} for m in answer["measurements"]]
    cli("export", "filled", "--measurements", "--out", "rows.parquet", "--db", filled)
    assert parquet.read_table(place / "rows.parquet").to_pylist() == rows
    assert of_frame(frames.measurements(filled, "filled", columns=("index", "layers"))) == rows
    assert {row["epoch"] for row in rows} == {1, 2, 3}


def test_columns_with_measurements_stand_before_the_epoch(cli: Cli, filled: str, told: Callable[..., Any]) -> None:
    """In their order, of the selected candidates; one that the epoch has itself is refused."""
    command = ("export", "filled", "--measurements", "--where", "status=failed", "--db", filled)
    rows = read(cli(*command, "--columns", "parameters,index").stdout)
    assert list(rows[0]) == ["parameters", "index", *MEASURED[2:]]
    failed = told("--where", "status=failed", columns=("index", "epochs"))
    assert [row["index"] for row in rows] == [row["index"] for row in failed for _ in range(row["epochs"])]
    result = cli(*command, "--columns", "index,val_loss")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "val_loss stands in each epoch's row already" in result.stderr


@pytest.mark.parametrize("words", [("export", "empty"), ("export", "filled", "--where", "val_accuracy>1")])
def test_no_rows_have_a_header_and_types(cli: Cli, filled: str, place: Path, words: tuple[str, ...]) -> None:
    """An empty answer has its columns, and its types, as a full one has."""
    command = (*words, "--db", filled)
    assert cli(*command).stdout == ",".join(FIELDS) + "\n"
    assert cli(*command, "--format", "jsonl").stdout == ""
    cli(*command, "--out", "none.parquet")
    cli("export", "filled", "--out", "some.parquet", "--db", filled)
    none, some = (parquet.read_table(place / f"{name}.parquet") for name in ("none", "some"))
    assert none.num_rows == 0
    assert none.schema == some.schema
    frame = frames.candidates(filled, words[1], where=words[3:])
    assert frame.dtypes.equals(frames.candidates(filled, "filled").dtypes)


def test_a_parquet_file_says_which_search_it_holds(cli: Cli, filled: str, place: Path) -> None:
    """Its metadata has the search's settings; its columns are numbers and texts, nullable where values are missing."""
    cli("export", "filled", "--out", "rows.parquet", "--db", filled)
    schema = parquet.read_schema(place / "rows.parquet")
    assert schema.metadata[b"netsieve.search"] == b"filled"
    assert json.loads(schema.metadata[b"netsieve.settings"]) == SETTINGS.as_dict() | {
        "recipe": SETTINGS.as_dict()["recipe"] | {"epochs": 3}
    }
    kinds = {field.name: (str(field.type), field.nullable) for field in schema}
    assert kinds["index"] == ("int64", False)
    assert kinds["macs"] == ("int64", True)
    assert kinds["val_accuracy"] == ("double", True)
    assert kinds["layers"] == ("string", False)


def test_the_dtypes_of_a_frame_are_as_documented(filled: str) -> None:
    """Int64 only where values can be missing; categories with all their values."""
    frame = frames.candidates(filled, "filled")
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert [kinds[name] for name in ("index", "layer", "macs", "val_loss", "layers", "status")] == [
        "int64", "Int64", "Int64", "float64", "string", "category",
    ]  # fmt: skip
    assert list(frame.status.cat.categories) == ["rejected", "open", "completed", "failed"]
    with pytest.raises(SettingsError, match="there is no field 'speed'"):
        frames.candidates(filled, "filled", columns=["speed"])
    with pytest.raises(UnknownSearch):
        frames.candidates(filled, "missing")


# ------------------------------------------------------------------ at any size


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twenty times the rows are written with as much memory, whatever the format."""
    monkeypatch.setattr(writers, "ROW_GROUP", 1000)

    def rows(number: int) -> Iterator[tuple[Any, ...]]:
        return ((i, f"conv-{i}", None, i / 7) for i in range(number))

    kinds = [Field.of(name) for name in ("index", "layers", "macs", "val_loss")]
    names = [kind.name for kind in kinds]

    def peak(write: Callable[[Any, Any], None], number: int) -> int:
        gc.collect()
        tracemalloc.start()
        with files.written_whole("--out", tmp_path / "rows") as file:
            write(file, rows(number))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    writes: list[Callable[[Any, Any], None]] = [
        lambda file, some: writers.write_csv(file, names, some),
        lambda file, some: writers.write_jsonl(file, names, some),
        lambda file, some: writers.write_parquet(file, kinds, some, {}),
    ]
    for write in writes:
        peak(write, 2000)
        few = peak(write, 2000)
        assert peak(write, 40_000) < 2 * few
    assert parquet.read_metadata(tmp_path / "rows").num_row_groups == 40


def test_an_export_holds_few_rows_of_a_large_search(
    cli: Cli, large: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the database to the file; on Postgres a cursor of the server holds the rest."""
    monkeypatch.setattr(writers, "ROW_GROUP", 1000)

    def peak(*words: str) -> int:
        gc.collect()
        tracemalloc.start()
        assert cli("export", "large", *words, "--db", large).exit_code == 0
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    for words in (("--out", "rows.csv"), ("--out", "rows.parquet"), ("--out", "rows.csv", "--measurements")):
        few = ("--where", "index<2000")
        peak(*words, *few)
        assert peak(*words) < 1.5 * peak(*words, *few)
    cli("export", "large", "--out", "rows.parquet", "--db", large)
    assert parquet.read_metadata(place / "rows.parquet").num_rows == 20_000
    with open_for_reading(large).connect() as connection:
        rows = select(connection, 1, Selection())
        assert next(rows)
        if connection.dialect.name == "postgresql":
            assert connection.exec_driver_sql("SELECT count(*) FROM pg_cursors").scalar() == 1
        rows.close()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with 20,000 candidates, all alike."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('large') / 'search.db'}"
    else:
        url = str(request.getfixturevalue("postgres_server").new_database())
    writer = open_for_writing(url)
    fill(writer, "large", draws=0)
    curve = "[[1.0, 1.0, 0.5], [0.5, 0.5, 0.75]]"
    numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19999)"
    digest = "CAST(CAST(i AS text) AS bytea)" if request.param == "postgres" else "CAST(i AS blob)"
    with writer.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO candidate (search_id, draw_index, digest, layers, status, epochs, attempts, val_accuracy, "
            f"curve) {numbers} SELECT 1, i, {digest}, 'dropout=p:0.2-', 'completed', 2, 1, 0.75, '{curve}' FROM n"
        )
    writer.dispose()
    return url


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_goes_to_stderr_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a line is drawn again, and wiped at the end; elsewhere lines come every ten seconds."""
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    rows = [(i,) for i in range(3000)]
    for stream, expected in ((Terminal(), "\r1,000 of 3,000 rows"), (io.StringIO(), "2,000 of 3,000 rows\n")):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", out)
        progress = Progress(3000)
        assert list(progress.counted(rows)) == rows
        assert progress.written == 3000
        assert expected in stream.getvalue()
        assert out.getvalue() == ""
    assert stream.getvalue().count("\n") == 1


# ------------------------------------------------------------------ whole or not at all


def write(path: Path, content: bytes, error: BaseException) -> None:
    with files.written_whole("--out", path) as file:
        file.write(content)
        raise error


def test_a_file_is_replaced_only_whole(place: Path) -> None:
    """Until the context ends well there is the old file and no other; a link goes on leading to it."""
    (place / "rows.csv").write_text("old")
    (place / "link.csv").symlink_to("rows.csv")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            write(place / "rows.csv", b"half", error())
    with pytest.raises(NotWritten, match="No space left on device; nothing was written"):
        write(place / "rows.csv", b"half", OSError(28, "No space left on device"))
    assert sorted(path.name for path in place.iterdir()) == ["link.csv", "rows.csv"]
    assert (place / "rows.csv").read_text() == "old"
    with files.written_whole("--out", place / "link.csv") as file:
        file.write(b"new")
        assert (place / "rows.csv").read_text() == "old"
    assert sorted(path.name for path in place.iterdir()) == ["link.csv", "rows.csv"]
    assert (place / "rows.csv").read_text() == "new"
    assert (place / "link.csv").is_symlink()


def test_a_file_system_without_nameless_files_will_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the file has a name of its own until it is whole, and loses it after an error."""
    monkeypatch.delattr(os, "O_TMPFILE")
    with pytest.raises(KeyboardInterrupt):
        write(place / "rows.csv", b"half", KeyboardInterrupt())
    assert list(place.iterdir()) == []
    with files.written_whole("--out", place / "rows.csv") as file:
        assert [path.suffix for path in place.iterdir()] == [".part"]
        file.write(b"new")
    assert [path.name for path in place.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_nothing(place: Path, number: signal.Signals) -> None:
    """Whatever ends the process in the middle of a file."""
    script = (
        "from pathlib import Path; from search.cli.files import written_whole; import time\n"
        "with written_whole('--out', Path('rows.csv')) as file:\n"
        "    file.write(b'x' * 100_000); print('writing', flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=place,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        time.sleep(0.05)
        process.send_signal(number)
        process.wait(20)
    assert list(place.iterdir()) == []


def test_a_file_that_finds_no_room_is_one_line(searched: Path, place: Path) -> None:
    """With the file that was asked for; nothing of it is left."""
    environment = {**os.environ, "NETSIEVE_DB": f"sqlite:///{searched}", "PYTHONPATH": str(Path(__file__).parents[3])}
    (place / "room").symlink_to(".")
    for name in ("rows.csv", "rows.jsonl"):
        command = f"ulimit -f 33; {NETSIEVE} export second --out room/{name}"  # KiB: SQLite's index takes 32
        done = subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"Error: --out room/{name}: File too large; nothing was written\n"
    assert [path.name for path in place.iterdir()] == ["room"]


def test_a_full_disk_is_one_line(searched: Path) -> None:
    """Of stdout; and a reader who has enough ends the command quietly."""
    environment = {**os.environ, "NETSIEVE_DB": f"sqlite:///{searched}", "PYTHONPATH": str(Path(__file__).parents[3])}
    words = f"{NETSIEVE} export second"
    for command, code, said in (
        (f"{words} > /dev/full", 1, "Error: cannot write the answer: No space left on device\n"),
        (f"{words} | head -1", 0, ""),
    ):
        done = subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (code, said)


# ------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "missing/rows.csv"), "--out missing/rows.csv: folder missing does not exist; create it"),
        (("--out", ".", "--format", "csv"), "--out .: is a folder; give a file in it"),
        (("--out", "/dev/null", "--format", "csv"), "is no plain file"),
        (("--out", "x" * 300 + ".csv"), "File name too long"),
        (("--out", "rows.xlsx"), "--out rows.xlsx: its ending says no format; give --format csv|jsonl|parquet"),
        (("--out", "rows"), "its ending says no format"),
        (("--format", "parquet"), "--format parquet: cannot be streamed; give --out FILE.parquet"),
        (("--out", "rows.csv", "--where", "speed>1"), "there is no field 'speed'"),
    ],
)
def test_what_cannot_be_written_is_one_clear_line(
    cli: Cli, searched: Path, place: Path, words: tuple[str, ...], says: str
) -> None:
    """With exit code 2, and nothing is left behind."""
    result = cli("export", "first", *words, "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(place.iterdir()) == []


def test_parquet_and_frames_say_how_to_install_what_they_need(
    cli: Cli, searched: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names the extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = cli("export", "first", "--out", "rows.parquet", "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: --format parquet: needs pyarrow; pip install 'netsieve[parquet]'\n"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Exception, match=r"needs pandas; pip install 'netsieve\[pandas\]'"):
        frames.candidates(f"sqlite:///{searched}", "first")
