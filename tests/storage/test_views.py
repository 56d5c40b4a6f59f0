"""The views, against the strings and rows below them; and the questions of storage/README.md, asked for real."""

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner

from search.cli import main
from search.layer_string import parse
from search.layers import KINDS, format_layer
from storage import frames
from storage.engine import open_for_reading, open_for_writing
from storage.questions import VIEWS
from tests.filled import SETTINGS, fill

Record = dict[str, Any]
PAGE = (Path(__file__).parents[2] / "storage/README.md").read_text()
QUESTIONS = re.findall(r"\*\*([^*]+\?)\*\*(.*?)```sql\n(.*?)```", PAGE, flags=re.DOTALL)
KIND_OF = {kind: name for name, kind in KINDS.items()}
SEARCHES: dict[str, dict[str, int]] = {"first": {}, "second": {"draws": 200, "epochs": 2}}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with two searches, with rows of every kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'search.db'}"
    else:
        url = str(request.getfixturevalue("postgres_server").new_database())
    writer = open_for_writing(url)
    for name, how in SEARCHES.items():
        fill(writer, name, **how)
    writer.dispose()
    return url


@pytest.fixture
def ask(url: str) -> Callable[[str], list[Record]]:
    """The answer that ``netsieve sql`` gives."""

    def answer(query: str) -> list[Record]:
        result = CliRunner().invoke(main, ["sql", query, "--format", "json", "--db", url], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return list(json.loads(result.stdout))

    return answer


@pytest.fixture
def rows(url: str) -> list[Record]:
    """The candidates of the first search, as DataFrames have them."""
    return rows_of(url, "first")


def rows_of(url: str, name: str) -> list[Record]:
    frame = frames.candidates(url, name).astype(object)
    return list(frame.where(frame.notna(), None).to_dict("records"))


# ------------------------------------------------------------------ the views


def test_layers_are_what_the_strings_say(ask: Callable[[str], list[Record]], url: str) -> None:
    """Position from 0, each parameter in its column as a number, NULL where the kind has no such parameter."""
    found = ask("SELECT * FROM layers WHERE search = 'first' ORDER BY draw_index, position")
    names = ["channel_factor", "kernel_size", "stride", "padding", "eps", "p"]
    expected = [
        {
            "search": "first", "draw_index": row["index"], "position": position, "kind": KIND_OF[type(layer)],
            "layer": format_layer(layer), **dict.fromkeys(names),
            **{key: float(value) if key in {"channel_factor", "eps", "p"} else value
               for key, value in asdict(layer).items()},
        }
        for row in rows_of(url, "first")
        for position, layer in enumerate(parse(row["layers"]))
    ]  # fmt: skip
    assert found == expected
    assert {row["kind"] for row in found} == {"conv", "batchnorm", "avgpool", "maxpool", "dropout"}
    with open_for_reading(url).connect() as connection:
        for values in connection.exec_driver_sql(f"SELECT {', '.join(names)} FROM layers LIMIT 300"):
            assert [type(value) for value in values if value is not None] == [
                float if name in {"channel_factor", "eps", "p"} else int
                for name, value in zip(names, values, strict=True)
                if value is not None
            ]


def test_candidates_are_the_rows_with_the_recipe(ask: Callable[[str], list[Record]], rows: list[Record]) -> None:
    """Every field of a candidate, and its search's settings beside it."""
    found = ask("SELECT * FROM candidates WHERE search = 'first' ORDER BY draw_index")
    renamed = {"index": "draw_index", "layer": "failing_layer"}
    assert [{name: row[renamed.get(name, name)] for name in rows[0]} for row in found] == rows
    recipe = {
        "space": "classic", "dataset": "digits", "seed": 7, "train_images": 5000, "batch_size": 32,
        "recipe_epochs": 3, "learning_rate": 0.05, "device": "cpu",
    }  # fmt: skip
    assert {key: found[0][key] for key in recipe} == recipe
    assert SETTINGS.recipe.learning_rate == 0.05


def test_searches_have_the_counts_of_status(ask: Callable[[str], list[Record]], url: str) -> None:
    """As ``status`` has them."""
    for row in ask("SELECT * FROM searches ORDER BY search"):
        words = ["status", row["search"], "--format", "json", "--db", url]
        status = json.loads(CliRunner().invoke(main, words).stdout)
        for key in ("target", "drawn", "rejected", "open", "completed", "failed"):
            assert row[key] == status[key]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", row["created_at"])


def test_measurements_are_the_learning_curves(ask: Callable[[str], list[Record]], url: str) -> None:
    """Epochs from 1, to the last digit."""
    found = ask("SELECT * FROM measurements WHERE search = 'first' ORDER BY draw_index, epoch")
    curves = frames.measurements(url, "first").rename(columns={"index": "draw_index"}).to_dict("records")
    assert found == [{"search": "first", **row} for row in curves]


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_describes_every_column(ask: Callable[[str], list[Record]], view: str) -> None:
    """And no other."""
    section = PAGE.split(f"\n`{view}`, ")[1].split("\n\n")[1]
    described = [name for line in section.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert described
    assert sorted(described) == sorted(ask(f"SELECT * FROM {view} LIMIT 1")[0])


# ------------------------------------------------------------------ the questions


def key(row: Record) -> tuple[float, float, int]:
    return (-row["val_accuracy"], row["val_loss"], row["index"])


def completed(rows: list[Record]) -> list[Record]:
    return sorted((row for row in rows if row["status"] == "completed"), key=key)


def depth(row: Record) -> int:
    return len(parse(row["layers"]))


def grouped(rows: list[Record], by: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    groups = defaultdict(list)
    for row in rows:
        groups[by(row)].append(row)
    return dict(sorted(groups.items()))


def accuracies(name: str, groups: dict[Any, list[Record]]) -> list[Record]:
    return [
        {name: value, "networks": len(group), "mean_accuracy": fmean(row["val_accuracy"] for row in group),
         "best_accuracy": max(row["val_accuracy"] for row in group)}
        for value, group in groups.items()
    ]  # fmt: skip


def shares(name: str, groups: dict[Any, list[Record]]) -> list[Record]:
    found = []
    for value, group in groups.items():
        rejected = sum(row["status"] == "rejected" for row in group)
        found.append({name: value, "candidates": len(group), "rejected": rejected, "share": rejected / len(group)})
    return found


def best_within(rows: list[Record]) -> list[Record]:
    best = {
        budget: next((row for row in completed(rows) if row["parameters"] <= budget), None)
        for budget in (1000, 10_000, 100_000)
    }
    return [
        {"budget": budget, "draw_index": row["index"],
         **{name: row[name] for name in ("val_accuracy", "parameters", "layers")}}
        for budget, row in best.items()
        if row
    ]  # fmt: skip


def front(rows: list[Record]) -> list[Record]:
    """Networks that no other beats in one and equals in the other; of twins the first."""
    done = completed(rows)

    def rank(row: Record) -> tuple[int, float, int]:
        return row["macs"], -row["val_accuracy"], row["index"]

    def beaten(row: Record) -> bool:
        return any(rank(other) < rank(row) and other["val_accuracy"] >= row["val_accuracy"] for other in done)

    kept = sorted((row for row in done if not beaten(row)), key=lambda row: row["macs"])
    return [
        {"draw_index": row["index"], **{name: row[name] for name in ("macs", "val_accuracy", "layers")}} for row in kept
    ]


def by_outcome(rows: list[Record]) -> list[Record]:
    groups = defaultdict(list)
    for row in rows:
        if row["seconds"] is not None:
            groups[row["status"], row["reason"]].append(row["seconds"])
    found = [
        {"status": status, "reason": reason, "candidates": len(s), "seconds": sum(s), "mean_seconds": fmean(s)}
        for (status, reason), s in groups.items()
    ]
    return sorted(found, key=lambda row: -row["seconds"])


EXPECTED: dict[str, Callable[[list[Record]], list[Record]]] = {
    "Which is the best network within a budget of parameters?": best_within,
    "Does batch normalization help?": lambda rows: accuracies(
        "batchnorm",
        grouped(completed(rows), lambda row: "with" if "batchnorm" in row["layers"] else "without"),
    ),
    "Which first layers lead to rejection?": lambda rows: shares(
        "layer", grouped(rows, lambda row: row["layers"].split("-")[0])
    ),
    "How does accuracy depend on depth?": lambda rows: accuracies("depth", grouped(completed(rows), depth)),
    "Which share of the strings of each length is rejected?": lambda rows: shares("depth", grouped(rows, depth)),
    "Which networks are best for their cost?": front,
    "Where did the time go?": by_outcome,
}


def nearly(rows: list[Record]) -> list[Record]:
    """Decimals to twelve digits: sums depend on their order."""
    return [
        {name: float(f"{value:.12g}") if isinstance(value, float | int) else value for name, value in row.items()}
        for row in rows
    ]


def test_the_page_has_ten_questions() -> None:
    """Each with its SQL; most are answered in plain Python as well."""
    assert len(QUESTIONS) == PAGE.count("```sql") == 10
    assert EXPECTED.keys() <= {question for question, _, _ in QUESTIONS}


@pytest.mark.parametrize(("question", "shape", "query"), QUESTIONS, ids=[question for question, _, _ in QUESTIONS])
def test_questions_are_answered_as_the_page_says(
    ask: Callable[[str], list[Record]], rows: list[Record], question: str, shape: str, query: str
) -> None:
    """With the columns that the page names, and, for most, with what plain Python finds."""
    found = ask(query)
    assert found
    named = [re.split(r",\s+", words) for words in re.findall(r"`([^`]+,[^`]+)`", shape, flags=re.DOTALL)]
    assert list(found[0]) in named
    if question not in EXPECTED:
        return
    expected, found = nearly(EXPECTED[question](rows)), nearly(found)
    if "first layers" in question:  # equal shares in the order of the database's collation
        assert [row["share"] for row in found] == sorted((row["share"] for row in found), reverse=True)
        found.sort(key=lambda row: str(row["layer"]))
    assert found == expected


def test_the_other_questions_add_up(ask: Callable[[str], list[Record]], url: str, rows: list[Record]) -> None:
    """The best five have their curves, repeats are what status says, and each search has its row."""
    queries = {question: query for question, _, query in QUESTIONS}
    curves = ask(queries["How did the best five learn?"])
    assert [row["draw_index"] for row in curves] == [row["index"] for row in completed(rows)[:5] for _ in range(3)]
    assert [row["epoch"] for row in curves] == [1, 2, 3] * 5
    for row in ask(queries["How many draws repeated an earlier one?"]):
        words = ["status", row["search"], "--format", "json", "--db", url]
        assert row["repeats"] == json.loads(CliRunner().invoke(main, words).stdout)["repeats"]
    compared = ask(queries["How do my searches compare?"])
    assert [row["search"] for row in compared] == list(SEARCHES)
    for row in compared:
        done = completed(rows_of(url, row["search"]))
        assert (row["completed"], row["best_accuracy"]) == (len(done), done[0]["val_accuracy"])
        assert row["training_hours"] == pytest.approx(sum(found["seconds"] for found in done) / 3600)
