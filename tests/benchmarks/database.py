"""What the store costs, on SQLite and on Postgres, with the real schema and indexes.

    python -m tests.benchmarks.database                     about half an hour, ten gigabytes in the temporary folder
    python -m tests.benchmarks.database --rows 100000       a quick look

Drawn candidates a second as a table grows; what the digest's index and COPY do to that; the cost of a
commit for each result; how long a claim takes where eight coordinators claim. Strings are made up, so that
drawing and checking cost nothing; digests are computed. Postgres has its defaults (fsync on).
"""

import argparse
import multiprocessing
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, MetaData

from search.candidates import Measurement, Outcome, RejectionReason
from search.messages import Task
from search.run import News
from search.settings import Recipe, SearchSettings
from search.shapes import Verdict
from search.sieve import Drawn
from search.space import CLASSIC
from storage import store as store_module
from storage.engine import open_for_writing
from storage.schema import architecture_digest, candidate
from storage.store import SqlStore
from tests.benchmarks.measure import machine, spread
from tests.databases import postgres_server

SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "none", "00", Recipe(epochs=1), "cpu")
BATCH = 1_024  # as the coordinator draws
COORDINATORS = 8
CLAIMED = 64  # candidates a claim
OUTCOME = Outcome((Measurement(1, 1.0, 1.0, 0.5),), 1.0)
LAYERS = "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-batchnorm=eps:0.0001-dropout=p:0.{}-"


def draw(start: int, stop: int, valid: int = 3) -> list[Drawn]:
    """Distinct strings of a usual length, every third of them valid."""
    rejected = Verdict((), RejectionReason.KERNEL_EXCEEDS_INPUT, 3, "kernel 4 exceeds the input 1x2x2")
    accepted = Verdict((), parameters=70_000, macs=300_000)
    return [Drawn(i, LAYERS.format(i), rejected if i % valid else accepted) for i in range(start, stop)]


def opened(url: str, name: str, target: int) -> tuple[Engine, SqlStore]:
    engine = open_for_writing(url)
    store = SqlStore.open(engine, name, SETTINGS, target)
    store.join()
    return engine, store


# ------------------------------------------------------------------ drawing


def curve(url: str, rows: int) -> Iterator[tuple[int, float, float]]:
    """(rows in the table, rows a second since the last line, share of the time that this process computed)."""
    engine, store = opened(url, "curve", rows)
    lines = [n for n in (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000) if n < rows] + [rows]
    done = 0
    for line in lines:
        began, computed, at_start = time.perf_counter(), time.process_time(), done
        while done < line:
            done = rows - store.extend(min(BATCH, line - done), draw)
        seconds = time.perf_counter() - began
        yield done, (done - at_start) / seconds, (time.process_time() - computed) / seconds
    engine.dispose()


def inserts(
    connection: Connection, insert: Callable[[Connection, Sequence[dict[str, object]]], None], rows: int
) -> float:
    """Rows a second of plain inserts, a commit a batch."""
    row = SqlStore._row
    owner = type("Owner", (), {"_search_id": 1})()
    began = time.perf_counter()
    for start in range(0, rows, BATCH):
        batch = [row(owner, architecture_digest(d.layers), d) for d in draw(start, min(start + BATCH, rows))]
        with connection.begin():
            insert(connection, batch)
    return rows / (time.perf_counter() - began)


def executemany(connection: Connection, rows: Sequence[dict[str, object]]) -> None:
    connection.execute(candidate.insert(), list(rows))


@contextmanager
def without_digest_index(connection: Connection) -> Iterator[None]:
    """The same table without what makes an architecture distinct."""
    views = " CASCADE" if connection.dialect.name == "postgresql" else ""  # SQLite lets them stand without a table
    with connection.begin():
        connection.exec_driver_sql(f"DROP TABLE candidate{views}")
        bare = candidate.to_metadata(MetaData())
        for constraint in [c for c in bare.constraints if isinstance(c, sa.UniqueConstraint | sa.ForeignKeyConstraint)]:
            bare.constraints.remove(constraint)
        bare.create(connection)
    yield


def ablations(make: Callable[[], str], rows: int, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Rates of inserting ``rows`` rows, in turn, each into a new database."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for what in ("as it is", "executemany", "no digest index"):
            engine, _store = opened(make(), "ablation", rows)
            if what == "executemany" and engine.dialect.name == "sqlite":
                engine.dispose()
                continue
            insert = executemany if what == "executemany" else store_module.insert_candidates
            with engine.connect() as connection:
                if what == "no digest index":
                    with without_digest_index(connection):
                        rate = inserts(connection, insert, rows)
                else:
                    rate = inserts(connection, insert, rows)
            found.setdefault(what, []).append(rate)
            engine.dispose()
    yield from found.items()


# ------------------------------------------------------------------ recording and claiming


def recording(url: str, name: str, batch: int, results: int) -> float:
    """Results a second, with a commit for every ``batch`` of them."""
    engine, store = opened(url, name, results)
    while store.extend(BATCH, lambda start, stop: draw(start, stop, valid=1)):
        pass
    tasks = [replace(t, attempt=1, begun=1) for t in store.claim(results, ()).tasks]
    store.record(News(dispatched=tasks))
    began = time.perf_counter()
    for start in range(0, results, batch):
        store.record(News(outcomes=[(task, OUTCOME) for task in tasks[start : start + batch]]))
    rate = results / (time.perf_counter() - began)
    engine.dispose()
    return rate


def claims(url: str, seconds: float) -> list[float]:
    """How long each claim took, in seconds, of a coordinator that claims, dispatches and records all the time."""
    engine, store = opened(url, "claims", 1)
    latencies = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        tasks: Sequence[Task] = store.claim(CLAIMED, ()).tasks
        latencies.append(time.perf_counter() - began)
        if not tasks:
            break
        begun = [replace(task, attempt=task.attempt + 1, begun=1) for task in tasks]
        store.record(News(dispatched=begun))
        store.record(News(outcomes=[(task, OUTCOME) for task in begun]))
    store.leave(None)
    engine.dispose()
    return latencies


def claim_latency(url: str, coordinators: int, seconds: float) -> list[float]:
    """Of so many coordinators at once, each a process."""
    engine, store = opened(url, "claims", 300_000)
    while store.extend(BATCH, lambda start, stop: draw(start, stop, valid=1)):
        pass
    store.leave(None)
    engine.dispose()
    with multiprocessing.get_context("spawn").Pool(coordinators) as pool:
        found = pool.starmap(claims, [(url, seconds)] * coordinators, chunksize=1)
    return [latency for each in found for latency in each]


# ------------------------------------------------------------------ all of it


def main() -> None:
    parser = argparse.ArgumentParser(description="What the store costs.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    few = min(options.rows, 200_000)
    print(f"{machine('sqlalchemy', 'psycopg')}, SQLite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory(prefix="netsieve-bench-") as folder, postgres_server() as server:
        numbers = iter(range(10**6))
        makers: dict[str, Callable[[], str]] = {
            "sqlite": lambda: f"sqlite:///{Path(folder, f'{next(numbers)}.db')}",
            "postgres": server.new_database,
        }
        for name, make in makers.items():
            for what, rates in ablations(make, few, options.rounds):
                print(f"{name}, {few:,} rows, {what}: {spread(rates, 0)} rows/s, n = {len(rates)}", flush=True)
            for batch in (1, 16, 128):
                rates = [recording(make(), f"b{batch}", batch, 40 * max(batch, 12)) for _ in range(options.rounds)]
                print(f"{name}, a commit for {batch} results: {spread(rates, 0)} results/s, n = {len(rates)}")
            for coordinators in (1, COORDINATORS):
                took = sorted(1000 * s for s in claim_latency(make(), coordinators, 10.0))
                p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
                print(
                    f"{name}, {coordinators} coordinators: a claim of {CLAIMED} takes {p50:.1f} ms, "
                    f"99th percentile {p99:.1f} ms, longest {took[-1]:.0f} ms, n = {len(took)}",
                    flush=True,
                )
        for name, make in makers.items():
            for rows, rate, share in curve(make(), options.rows):
                print(f"{name}, to {rows:,} rows: {rate:,.0f} rows/s, {share:.0%} of it in the coordinator", flush=True)


if __name__ == "__main__":
    main()
