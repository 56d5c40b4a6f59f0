"""Questions to the database: list, status, top, candidates, failures, show."""

import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from storage.engine import open_for_writing
from storage.store import SqlStore
from tests.recorded import SETTINGS

ROOT = Path(__file__).parents[3]

Cli = Callable[..., Result]
Ask = Callable[..., Any]

COUNTS = ["target", "drawn", "distinct", "repeats", "rejected", "completed", "failed", "open"]
STATUS_KEYS = [
    "name", "state", *COUNTS, "best", "stopped_because", "worker_seconds", "training_seconds", "training_share",
]  # fmt: skip
CANDIDATE_KEYS = [
    "index", "layers", "status", "reason", "layer", "parameters", "macs",
    "train_loss", "val_loss", "val_accuracy", "epochs", "seconds", "attempts",
]  # fmt: skip
SHOW_KEYS = [
    *CANDIDATE_KEYS, "detail", "shapes", "measurements", "test_loss", "test_accuracy", "layer_costs",
    "attempts_in_flight_or_failed", "retrain",
]  # fmt: skip
LIST_KEYS = ["name", "state", "target", "drawn", "completed", "dataset", "space", "created"]
FAILURE_KEYS = ["status", "reason", "layer", "candidates", "example", "example_layers"]
QUESTIONS = {
    ("list",): LIST_KEYS,
    ("status", "first"): STATUS_KEYS,
    ("top", "first"): CANDIDATE_KEYS,
    ("candidates", "first"): CANDIDATE_KEYS,
    ("failures", "first"): FAILURE_KEYS,
    ("show", "first", 0): SHOW_KEYS,
}  # and the keys of their answers
ONE_THING = {"status", "show"}


@pytest.fixture
def ask(cli: Cli, searched: Path) -> Ask:
    """The answer to a question, from JSON."""

    def answer(*words: object) -> Any:
        result = cli(*words, "--db", f"sqlite:///{searched}", "--format", "json")
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    return answer


def first_of(answer: Any) -> dict[str, Any]:
    """An answer about one thing, or the first of several."""
    return answer if isinstance(answer, dict) else answer[0]


# ------------------------------------------------------------------ formats

each_question = pytest.mark.parametrize(
    ("question", "keys"), QUESTIONS.items(), ids=[question[0] for question in QUESTIONS]
)


@each_question
def test_json_keys_are_the_contract(ask: Ask, question: tuple[object, ...], keys: list[str]) -> None:
    """An answer about one thing is an object, about several a list; keys stand in their documented order."""
    answer = ask(*question)
    assert isinstance(answer, dict) == (question[0] in ONE_THING)
    assert list(first_of(answer)) == keys


@each_question
def test_jsonl_and_csv_say_what_json_says(
    cli: Cli, ask: Ask, searched: Path, question: tuple[object, ...], keys: list[str]
) -> None:
    """A line of jsonl is an object, a line of csv a row a record under the keys; nested values stay JSON."""
    database = ("--db", f"sqlite:///{searched}")
    answer = ask(*question)
    records = [answer] if isinstance(answer, dict) else answer
    assert [json.loads(line) for line in cli(*question, *database, "--format", "jsonl").stdout.splitlines()] == records
    rows = list(csv.reader(io.StringIO(cli(*question, *database, "--format", "csv").stdout)))
    assert rows[0] == keys

    def as_text(value: object) -> str:
        return json.dumps(value) if isinstance(value, dict | list) else "" if value is None else str(value)

    assert rows[1:] == [[as_text(value) for value in record.values()] for record in records]


@each_question
def test_the_table_is_for_people(cli: Cli, searched: Path, question: tuple[object, ...], keys: list[str]) -> None:
    """A table has lines without trailing blanks, and no Python in it."""
    result = cli(*question, "--db", f"sqlite:///{searched}")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines
    assert all(line == line.rstrip() for line in lines)
    assert not any(word in result.stdout for word in ("None", "Status.", "nan", "True"))


# ------------------------------------------------------------------ status and list


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_accounting_adds_up(ask: Ask, name: str) -> None:
    """Drawn are distinct and repeats; distinct are rejected, completed, failed and open; the rows agree."""
    status = ask("status", name)
    assert status["drawn"] == status["distinct"] + status["repeats"]
    assert status["distinct"] == sum(status[key] for key in ("rejected", "completed", "failed", "open"))
    by_status = Counter(row["status"] for row in ask("candidates", name))
    assert by_status == {key: n for key in ("rejected", "completed", "failed", "open") if (n := status[key])}


def test_status_of_a_finished_search(ask: Ask) -> None:
    """A search with all its candidates drawn and ended is finished, for no other reason; best is top's first."""
    status = ask("status", "first")
    assert (status["name"], status["state"], status["target"], status["drawn"]) == ("first", "finished", 60, 60)
    assert (status["open"], status["stopped_because"]) == (0, None)
    assert status["best"] == ask("top", "first", "-n", 1)[0]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("json_set(settings, '$.augment', 1)", "augment"),
        ("json_set(settings, '$.recipe.momentum', 0.9)", "recipe.momentum"),
        ("json_set(settings, '$.space.skips', 1)", "space.skips"),
    ],
)
def test_a_search_of_a_newer_netsieve_is_listed_and_not_read(cli: Cli, change: str, key: str) -> None:
    """It has settings that are not known here; others are not disturbed."""
    engine = open_for_writing("sqlite:///netsieve.db")
    for name in ("first", "second"):
        SqlStore.open(engine, name, SETTINGS, target=10)
    engine.dispose()
    with closing(sqlite3.connect("netsieve.db")) as connection, connection:
        connection.execute(f"UPDATE search SET settings = {change} WHERE name = 'first'")
    result = cli("status", "first")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: search first: the settings '{key}' are not known to this netsieve, a newer one made the search: "
        "update netsieve\n"
    )
    first, second = json.loads(cli("list", "--format", "json").stdout)
    assert {**first, "name": "second", "created": second["created"]} == second
    assert cli("status", "second").exit_code == 0


def test_status_says_how_much_of_the_workers_time_was_training(cli: Cli, ask: Ask, searched: Path) -> None:
    """Of all runs of the search, in numbers and in words."""
    status = ask("status", "first")
    assert 0 < status["training_seconds"] < status["worker_seconds"]
    share = status["training_seconds"] / status["worker_seconds"]
    assert status["training_share"] == pytest.approx(share, abs=0.01)
    table = cli("status", "first", "--db", f"sqlite:///{searched}").stdout
    assert f"workers    {100 * status['training_share']:.1f} % of worker time spent training" in table


def test_status_of_a_stopped_search(cli: Cli, ask: Ask, searched: Path) -> None:
    """A search that a limit ended is stopped, and status says which limit, also to people."""
    status = ask("status", "second")
    assert (status["state"], status["drawn"], status["completed"]) == ("stopped", 400, 2)
    assert status["open"] > 0
    assert "--max-completed 2" in status["stopped_because"]
    assert "--max-completed 2" in cli("status", "second", "--db", f"sqlite:///{searched}").stdout


def test_list_has_every_search(ask: Ask) -> None:
    """The searches of a database are listed in the order in which they were created."""
    searches = ask("list")
    assert [(s["name"], s["state"], s["target"], s["dataset"], s["space"]) for s in searches] == [
        ("first", "finished", 60, "digits", "classic"),
        ("second", "stopped", 400, "digits", "classic"),
    ]
    assert all(search["created"].endswith("+00:00") for search in searches)


# ------------------------------------------------------------------ top


def test_top_is_ordered(ask: Ask) -> None:
    """The completed candidates are ranked by accuracy, then loss, then index."""
    best = ask("top", "first", "-n", 1000)
    completed = [row for row in ask("candidates", "first") if row["status"] == "completed"]
    assert best == sorted(completed, key=lambda row: (-row["val_accuracy"], row["val_loss"], row["index"]))
    assert len(completed) > 10


def test_top_gives_ten_unless_told_otherwise(cli: Cli, ask: Ask, searched: Path) -> None:
    """The ten best are given, -n or --limit others; the table numbers them."""
    best = ask("top", "first", "--limit", 1000)
    assert ask("top", "first") == best[:10]
    assert ask("top", "first", "-n", 3) == best[:3]
    lines = cli("top", "first", "-n", 3, "--db", f"sqlite:///{searched}").stdout.splitlines()
    assert lines[0].split() == ["rank", "accuracy", "loss", "parameters", "macs", "index", "layers"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]


# ------------------------------------------------------------------ candidates


def test_candidates_are_all_there_in_order(ask: Ask) -> None:
    """Every distinct candidate is given in the order in which it was drawn, each layer string once."""
    rows = ask("candidates", "second")
    indices = [row["index"] for row in rows]
    assert indices == sorted(indices)
    assert len({row["layers"] for row in rows}) == len(rows) == ask("status", "second")["distinct"]


def test_candidates_are_what_sample_draws(cli: Cli, ask: Ask) -> None:
    """A candidate's layers and verdict are those of ``sample`` at its index."""
    draws = json.loads(cli("sample", "-n", 60, "--format", "json").stdout)
    for row in ask("candidates", "first"):
        draw = draws[row["index"]]
        assert (row["layers"], row["status"] != "rejected") == (draw["layers"], draw["valid"])
        assert (row["reason"], row["layer"]) == (draw["reason"], draw["layer"])


def test_what_a_candidate_has_depends_on_its_status(ask: Ask) -> None:
    """Costs belong to valid candidates, measurements to trained ones, a reason to rejected ones."""
    for row in ask("candidates", "second"):
        valid, trained = row["status"] != "rejected", row["status"] == "completed"
        assert (row["reason"] is None) == valid
        assert (row["parameters"] is not None, row["macs"] is not None) == (valid, valid)
        assert all((row[key] is not None) == trained for key in ("train_loss", "val_loss", "val_accuracy", "seconds"))
        assert (row["epochs"], row["attempts"]) == ((1, 1) if trained else (0, 0))


def test_the_table_of_candidates_stops_at_twenty(cli: Cli, ask: Ask, searched: Path) -> None:
    """A table shows twenty candidates and says on stderr of how many, unless --limit is typed."""
    command = ("candidates", "second", "--db", f"sqlite:///{searched}")
    distinct = ask("status", "second")["distinct"]
    table = cli(*command)
    assert len(table.stdout.splitlines()) == 1 + 20
    assert table.stderr == f"20 of {distinct}; --limit N gives more, --format csv, json or jsonl all\n"
    for limit, rows in ((5, 5), (20, 20), (21, 21), (300, 300), (10_000, distinct)):
        limited = cli(*command, "--limit", limit)
        assert (len(limited.stdout.splitlines()), limited.stderr) == (1 + rows, "")
    assert ask("candidates", "second", "--limit", 30) == ask("candidates", "second")[:30]


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (("val_accuracy>97",), "no candidate fulfils it; accuracies go from 0 to 1"),
        (("status=completed", "val_accuracy>=1.5"), "no candidate fulfils all of it; accuracies go from 0 to 1"),
        (("parameters<0",), "no candidate fulfils it"),
        (("val_accuracy<0",), "no candidate fulfils it"),
    ],
)
def test_a_table_without_a_row_has_its_header(cli: Cli, searched: Path, where: tuple[str, ...], told: str) -> None:
    """And says on stderr why it is empty; other formats are for programs."""
    conditions = [word for condition in where for word in ("--where", condition)]
    command = ("candidates", "first", *conditions, "--db", f"sqlite:///{searched}")
    result = cli(*command)
    assert (result.exit_code, result.stderr) == (0, f"{told}\n")
    assert result.stdout == "index  status  reason  layer  val_accuracy  val_loss  parameters  layers\n"
    other = cli(*command, "--format", "json")
    assert (json.loads(other.stdout), other.stderr) == ([], "")


def test_a_ranking_of_nothing_says_so(cli: Cli, place: Path) -> None:
    """A search without a completed candidate."""
    (place / "bad.txt").write_text("maxpool=kernel_size:64,stride:1,padding:0-\n")
    assert cli("run", "none", "--strings", "bad.txt", "--dataset", "digits", "--workers", 0).exit_code == 0
    result = cli("top", "none")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "rank")
    assert result.stderr == "search none has no completed candidate yet; netsieve status none says how it stands\n"
    other = cli("top", "none", "--format", "json")
    assert (json.loads(other.stdout), other.stderr) == ([], "")


# ------------------------------------------------------------------ failures


def test_failures_count_the_rows(ask: Ask) -> None:
    """Rejected and failed candidates are counted by status, reason and layer, the most frequent first."""
    rows = ask("candidates", "second")
    expected = Counter((row["status"], row["reason"], row["layer"]) for row in rows if row["reason"])
    found = ask("failures", "second")
    assert {(row["status"], row["reason"], row["layer"]): row["candidates"] for row in found} == expected
    assert [row["candidates"] for row in found] == sorted((row["candidates"] for row in found), reverse=True)


def test_failures_table_has_shares_and_examples(cli: Cli, ask: Ask, searched: Path) -> None:
    """The table adds each row's share, which add up to all, and ends with the example's string."""
    lines = cli("failures", "first", "--db", f"sqlite:///{searched}").stdout.splitlines()
    assert lines[0].split() == ["status", "reason", "layer", "candidates", "share", "example", "layers"]
    shares = [float(line.split()[-3].rstrip("%")) for line in lines[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(lines))
    assert [line.split()[-1] for line in lines[1:]] == [row["example_layers"] for row in ask("failures", "first")]


def test_an_example_is_the_first_of_its_kind(ask: Ask) -> None:
    """By reason and layer, and by one of the two."""
    rows = ask("candidates", "second")
    for by, names in (("both", ("reason", "layer")), ("reason", ("reason",)), ("layer", ("layer",))):
        found = ask("failures", "second", "--by", by)
        assert sum(row["candidates"] for row in found) == sum(row["reason"] is not None for row in rows)
        for row in found:
            same = [r for r in rows if r["reason"] and all(r[name] == row[name] for name in names)]
            assert (row["example"], row["example_layers"]) == (same[0]["index"], same[0]["layers"])


# ------------------------------------------------------------------ show


def test_show_is_the_candidate_and_more(ask: Ask) -> None:
    """One candidate is shown with what candidates gives, the shapes that check gives, and a measurement an epoch."""
    for row in ask("top", "first", "-n", 1) + ask("candidates", "first", "--limit", 3):
        shown = ask("show", "first", row["index"])
        assert {key: shown[key] for key in CANDIDATE_KEYS} == row
        assert shown["shapes"][0] == [1, 28, 28]
        assert len(shown["measurements"]) == row["epochs"]
        for measured in shown["measurements"][-1:]:
            assert list(measured) == ["epoch", "train_loss", "val_loss", "val_accuracy"]
            assert measured == {"epoch": 1, **{key: row[key] for key in list(measured)[1:]}}


def test_show_of_a_repeat_says_of_which(cli: Cli, ask: Ask, searched: Path) -> None:
    """An index that drew an architecture again shows the first one, and says so."""
    draws = [draw["layers"] for draw in json.loads(cli("sample", "-n", 400, "--format", "json").stdout)]
    again = next(index for index, layers in enumerate(draws) if draws.index(layers) < index)
    first = draws.index(draws[again])
    assert ask("show", "second", again) == ask("show", "second", first)
    table = cli("show", "second", again, "--db", f"sqlite:///{searched}").stdout
    assert table.startswith(f"index {again} drew the architecture of index {first} again")
    assert ask("status", "second")["repeats"] == 400 - len(set(draws))


@pytest.mark.parametrize("index", [60, 2**63 - 1])
def test_show_beyond_what_is_drawn(cli: Cli, searched: Path, index: int) -> None:
    """An index that is not drawn is refused with the indices that are."""
    result = cli("show", "first", index, "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"INDEX {index}: not drawn" in result.stderr
    assert "0 to 59" in result.stderr


# ------------------------------------------------------------------ what is not there


@pytest.mark.parametrize("question", [q for q in QUESTIONS if len(q) > 1], ids=lambda question: str(question[0]))
def test_an_unknown_search_suggests_the_nearest(cli: Cli, searched: Path, question: tuple[object, ...]) -> None:
    """A mistyped name gets exit code 2 and the nearest name."""
    result = cli(question[0], "frist", *question[2:], "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: NAME 'frist': no such search in this database; did you mean first?\n"


def test_an_unlike_name_is_told_which_there_are(cli: Cli, tmp_path: Path) -> None:
    """All of a few, the newest of many; and of many that are near, the nearest."""
    url = f"sqlite:///{tmp_path / 'many.db'}"
    for names, known in (
        (("first",), "there is first"),
        (("mnist",), "there are mnist, first"),
        (("deep",), "there are deep, mnist, first"),
        (("wide",), "there are wide, deep, mnist among others: netsieve list"),
    ):
        engine = open_for_writing(url)
        for name in names:
            SqlStore.open(engine, name, SETTINGS, 10)
        engine.dispose()
        result = cli("top", "xyz", "--db", url)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"Error: NAME 'xyz': no such search in this database; {known}\n"
    assert "; did you mean mnist?\n" in cli("top", "mnits", "--db", url).stderr


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: str(question[0]))
def test_a_missing_database_is_not_created(cli: Cli, place: Path, question: tuple[object, ...]) -> None:
    """A question to a database that does not exist names it, says how to start, and creates nothing."""
    result = cli(*question)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: --db netsieve.db: no such file; start a search with netsieve run")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: str(question[0]))
def test_questions_change_nothing(cli: Cli, copied: Path, question: tuple[object, ...]) -> None:
    """Reading leaves the database's bytes and time as they were; beside it only SQLite's index of an empty log."""
    before = (copied.read_bytes(), copied.stat().st_mtime_ns)
    assert cli(*question).exit_code == 0
    assert (copied.read_bytes(), copied.stat().st_mtime_ns) == before
    left = {path.name for path in copied.parent.iterdir() if path.stat().st_size}
    assert left <= {"netsieve.db", "netsieve.db-shm"}


def test_a_database_in_an_odd_place(cli: Cli, searched: Path, place: Path) -> None:
    """A path with blanks, signs and letters that are not ASCII is read as it is."""
    odd = place / "über 100% #1"
    odd.mkdir()
    shutil.copy(searched, odd / "results & more.db")
    result = cli("list", "--db", "sqlite:///über 100% #1/results & more.db", "--format", "jsonl")
    assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == ["first", "second"]


def test_the_environment_names_the_database(cli: Cli, searched: Path) -> None:
    """NETSIEVE_DB stands in for --db; a reader that has enough ends the command quietly."""
    netsieve = Path(sys.executable).with_name("netsieve")
    done = subprocess.run(
        ["bash", "-c", f"{netsieve} candidates second --format jsonl | head -1"],
        env={**os.environ, "NETSIEVE_DB": f"sqlite:///{searched}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["index"] == 0
    assert done.stderr == ""


def test_show_says_what_each_layer_costs(ask: Ask, cli: Cli, searched: Path) -> None:
    """Parameters and multiply-adds a layer, the classifier's last; they add up to the candidate's."""
    best = ask("top", "first", "-n", 1)[0]
    shown = ask("show", "first", best["index"])
    for name in ("parameters", "macs"):
        assert sum(layer[name] for layer in shown["layer_costs"]) == best[name]
    assert len(shown["layer_costs"]) == best["layers"].count("-") + 1
    assert shown["retrain"] == f"netsieve retrain first {best['index']} --db sqlite:///{searched}"
    table = cli("show", "first", best["index"], "--db", f"sqlite:///{searched}").stdout
    assert "classifier (flatten, linear)" in table
    assert shown["retrain"] in table


def test_show_of_a_rejected_candidate_has_no_costs(ask: Ask) -> None:
    """Nor a command that would train it."""
    rejected = next(row for row in ask("candidates", "first") if row["status"] == "rejected")
    shown = ask("show", "first", rejected["index"])
    assert (shown["layer_costs"], shown["retrain"]) == ([], None)


# ------------------------------------------------------------------ candidates, selected


def test_candidates_can_be_selected(ask: Ask) -> None:
    """Conditions, an order, columns and a limit, together."""
    rows = ask("candidates", "second")
    found = ask(
        "candidates", "second", "--where", "status=rejected", "--where", "layers~maxpool",
        "--sort", "-layer,index", "--columns", "layer,index", "--limit", 7,
    )  # fmt: skip
    expected = [r for r in rows if r["status"] == "rejected" and "maxpool" in r["layers"] and r["layer"] is not None]
    expected.sort(key=lambda r: (-r["layer"], r["index"]))
    assert found == [{"layer": r["layer"], "index": r["index"]} for r in expected[:7]]


def test_a_table_has_the_columns_that_were_asked_for(cli: Cli, searched: Path) -> None:
    """In their order; and it says that there is more."""
    result = cli("candidates", "second", "--columns", "epochs,index", "--db", f"sqlite:///{searched}")
    assert result.stdout.splitlines()[0].split() == ["epochs", "index"]
    assert len(result.stdout.splitlines()) == 1 + 20
    assert "; --limit N gives more, --format csv, json or jsonl all" in result.stderr


def test_an_empty_selection_is_an_empty_answer(cli: Cli, ask: Ask, searched: Path) -> None:
    """And no error."""
    assert ask("candidates", "second", "--where", "val_accuracy>1") == []
    result = cli("candidates", "second", "--where", "val_accuracy>1", "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stderr) == (0, "no candidate fulfils it\n")


@pytest.mark.parametrize("words", [("--where", "speed>1"), ("--sort", "speed"), ("--columns", "speed")])
def test_a_bad_field_lists_the_fields(cli: Cli, searched: Path, words: tuple[str, str]) -> None:
    """Before the database is asked."""
    result = cli("candidates", "second", *words, "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the fields are index, layers, status" in result.stderr


@pytest.mark.parametrize("style", ["csv", "jsonl", "json"])
def test_a_reader_that_has_enough_is_no_failure(searched: Path, style: str) -> None:
    """As head is: exit code 0 and not a word, also where pipefail looks at it."""
    netsieve = f"{sys.executable} -c 'from search.cli import main; main()'"
    for words in (f"sample -n 30000 --format {style}", f"candidates second --db sqlite:///{searched} --format {style}"):
        script = f"set -o pipefail; {netsieve} {words} | head -1"
        answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
        assert (answer.returncode, answer.stderr, len(answer.stdout.splitlines())) == (0, "", 1)
