"""How long questions take in a search of ten million candidates, on SQLite and on Postgres.

    python -m tests.benchmarks.questions                     half an hour, ten gigabytes in the temporary folder
    python -m tests.benchmarks.questions --rows 100000       a quick look

Strings are real draws of the classic space, checked as a search checks them; losses, curves and seconds
are made up, and every twentieth valid candidate is left open. Both databases hold the same rows. A time is
of the functions that the commands call, on a connection that is open; starting Python comes on top.
"""

import argparse
import math
import random
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from search.candidates import FailureReason, Status
from search.samplers import RejectionSampler
from search.settings import Recipe, SearchSettings
from search.sieve import judge_with
from search.space import CLASSIC
from storage import queries
from storage.engine import open_for_reading, open_for_writing
from storage.schema import NO_LAYER, SORTED_BY_INDEX, architecture_digest, search
from storage.selection import Condition, Order, Selection, select
from storage.store import SqlStore, count_changes, insert_candidates
from tests.benchmarks.measure import machine
from tests.databases import admin, postgres_server

SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "mnist", "00", Recipe(), "cpu")
BATCH = 20_480
TIMES = 20
Question = Callable[[Connection], Any]


# ------------------------------------------------------------------ building


def distinct_rows(count: int) -> Iterator[list[dict[str, Any]]]:
    """Batches of rows of distinct candidates, in the order in which the classic space with seed 0 draws them."""
    judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)
    numbers, known = random.Random(0), set[bytes]()
    owner = type("Owner", (), {"_search_id": 1})()
    start = 0
    while len(known) < count:
        batch = []
        for drawn in judge(start, start + BATCH):
            digest = architecture_digest(drawn.layers)
            if digest not in known and len(known) < count:
                known.add(digest)
                batch.append(ended(SqlStore._row(owner, digest, drawn), numbers))
        start += BATCH
        yield batch


def ended(row: dict[str, Any], numbers: random.Random) -> dict[str, Any]:
    """A valid candidate's made-up end: accuracies of a thousand images, a curve of ten epochs."""
    row |= dict.fromkeys(("train_loss", "val_loss", "val_accuracy", "curve", "seconds"))
    chance = numbers.random()
    if row["status"] is not Status.OPEN or chance < 1 / 20:
        return row
    if chance < 1 / 15:
        return row | {"status": Status.FAILED, "reason": FailureReason.NON_FINITE_LOSS, "detail": "in epoch 1",
                      "seconds": numbers.random(), "attempts": 1}  # fmt: skip
    best = numbers.betavariate(8, 1)
    curve = [
        [2.3 * math.exp(-best * epoch / 3), 2.3 * math.exp(-best * epoch / 3) + 0.05, round(best * (1 - 2**-epoch), 3)]
        for epoch in range(1, 11)
    ]
    last = dict(zip(("train_loss", "val_loss", "val_accuracy"), curve[-1], strict=True))
    seconds = 2 + numbers.random()
    return row | last | {"status": Status.COMPLETED, "curve": curve, "epochs": 10, "seconds": seconds, "attempts": 1}


def build(engines: list[Engine], count: int) -> None:
    """The same search in each database."""
    for engine in engines:
        SqlStore.open(engine, "large", SETTINGS, count).join()
    done = 0
    for batch in distinct_rows(count):
        kinds = [
            (str(r["status"]), str(r["reason"] or ""), NO_LAYER if r["layer"] is None else r["layer"]) for r in batch
        ]
        firsts = {kind: r["draw_index"] for kind, r in reversed(list(zip(kinds, batch, strict=True))) if kind[1]}
        for engine in engines:
            with engine.begin() as connection:
                insert_candidates(connection, batch)
                count_changes(connection, 1, Counter(kinds), firsts)
                drawn = batch[-1]["draw_index"] + 1 if batch else 0
                connection.execute(search.update().values(drawn=drawn, target=drawn))
        done += len(batch)
        print(f"\r{done:,}", end="", flush=True)
    print()


def kind_of(row: dict[str, Any]) -> tuple[str, str, int]:
    """Its tally's status, reason and layer."""
    return str(row["status"]), str(row["reason"] or ""), NO_LAYER if row["layer"] is None else row["layer"]


# ------------------------------------------------------------------ asking


def selected(*where: str, sort: str = "", limit: int = 20) -> Question:
    orders = tuple(Order.parse(sort)) if sort else ()
    chosen = Selection(tuple(map(Condition.parse, where)), orders, limit=limit)
    return lambda connection: list(select(connection, 1, chosen))


def questions(middle: int, layers: str) -> dict[str, Question]:
    """By the command that asks them."""
    return {
        "list": lambda c: [queries.standing(c, queries.require(c, name).id) for name in queries.names(c)],
        "status": lambda c: (queries.standing(c, 1), queries.ranked(c, 1, 1)),
        "top (10)": lambda c: queries.ranked(c, 1, 10),
        "top -n 1000": lambda c: queries.ranked(c, 1, 1000),
        "failures": lambda c: queries.failures(c, 1),
        "failures --by layer": lambda c: queries.failures(c, 1, queries.By.LAYER),
        "show": lambda c: (queries.details(c, 1, middle), queries.attempts(c, 1, middle)),
        "show, of a repeat": lambda c: queries.details_of(c, 1, layers),
        "candidates (20)": selected(),
        "candidates --limit 1000": selected(limit=1000),
        "candidates --sort -index": selected(sort="-index"),
        **{f"candidates --sort {name}": selected(sort=name) for name in SORTED_BY_INDEX},
        **{f"candidates --sort -{name}": selected(sort=f"-{name}") for name in SORTED_BY_INDEX},
        "candidates --where 'val_accuracy>=0.99' --sort parameters": selected("val_accuracy>=0.99", sort="parameters"),
        "candidates --where 'layers~maxpool' --sort -val_accuracy": selected("layers~maxpool", sort="-val_accuracy"),
    }  # fmt: skip


def scans() -> dict[str, Question]:
    """What no index serves: all rows are read. Shown so that nobody is surprised."""
    return {
        "candidates --where 'layers~eps:0.5' (there is none)": selected("layers~eps:0.5"),
        "candidates --sort train_loss": selected(sort="train_loss"),
    }


def ask(engine: Engine, asked: dict[str, Question], times: int) -> Iterator[tuple[str, list[float]]]:
    """Milliseconds of each question, each time in a snapshot of its own."""
    for name, question in asked.items():
        took = []
        for _ in range(times):
            with engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")  # the connection is open
                began = time.perf_counter()
                question(connection)
                took.append(1000 * (time.perf_counter() - began))
        yield name, took


def size(engine: Engine) -> int:
    """Bytes of the database."""
    statement = "SELECT pg_database_size(current_database())"
    if engine.dialect.name == "sqlite":
        statement = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(statement).scalar_one())


def main() -> None:
    parser = argparse.ArgumentParser(description="How long questions take in a large search.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", default=None, help="Where the SQLite file is made.")
    parser.add_argument("--database", choices=["sqlite", "postgres"], action="append", help="Only this one.")
    options = parser.parse_args()
    print(f"{machine('sqlalchemy', 'psycopg')}, SQLite {sqlite3.sqlite_version}")
    with (
        tempfile.TemporaryDirectory(prefix="netsieve-bench-", dir=options.folder) as folder,
        postgres_server() as server,
    ):
        urls = {"sqlite": f"sqlite:///{Path(folder, 'large.db')}", "postgres": server.new_database()}
        urls = {name: url for name, url in urls.items() if name in (options.database or urls)}
        writers = [open_for_writing(url) for url in urls.values()]
        build(writers, options.rows)
        for writer in writers:
            writer.dispose()
        if "postgres" in urls:
            admin(urls["postgres"], "VACUUM ANALYZE")  # as the server does by itself, later
        for name, url in urls.items():
            engine = open_for_reading(url)
            with engine.connect() as connection:
                middle, layers = next(select(connection, 1, Selection(
                    (Condition.parse(f"index>={options.rows // 2}"), Condition.parse("status=completed")),
                    columns=("index", "layers"), limit=1)))  # fmt: skip
                version = connection.exec_driver_sql("SHOW server_version").scalar() if name == "postgres" else ""
                statuses = queries.counts(connection, 1)
            print(f"\n{name} {version}: {size(engine) / 2**30:.2f} GiB; {statuses}")
            for question, took in [*ask(engine, questions(middle, layers), TIMES), *ask(engine, scans(), 3)]:
                print(
                    f"| {name} | `{question}` | {statistics.median(took):.1f} | {max(took):.1f} | {len(took)} |",
                    flush=True,
                )
            engine.dispose()


if __name__ == "__main__":
    main()
