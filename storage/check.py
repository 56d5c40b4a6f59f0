"""Proof that a search's rows are what its seed and its runs must give: ``netsieve db check``.

Every index is drawn and checked anew and compared with what is stored; the numbers that answers are
read from are counted; and what coordinators hold must be theirs alone. All in one snapshot, with
memory that does not grow, so that it can be done at any time, also while the search runs.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from search.candidates import CHARGED, MOST_CHARGES, FailureReason, Status
from search.errors import quoted
from search.settings import Recipe
from search.sieve import Drawn
from storage.queries import one_of_digests
from storage.schema import NO_LAYER, architecture_digest, attempt, candidate, coordinator, lease, search, tally

CHUNK = 1_024  # indices that are drawn at once
SHOWN = 400  # characters of a layer string

Kind = tuple[str, str, int]  # a tally's status, reason and layer
Judge = Callable[[int, int], Sequence[Drawn]]


@dataclass
class Report:
    """What was looked at, and what is wrong."""

    drawn: int = 0
    distinct: int = 0
    repeats: int = 0
    wrong: list[str] = field(default_factory=list)  # one line each


def check_file(connection: Connection) -> list[str]:
    """What SQLite finds wrong with its file, and with references between rows; Postgres looks after itself."""
    if connection.dialect.name != "sqlite":
        return []
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
    lost = [f"table {row[0]}: a row refers to {row[2]}, where there is none" for row in
            connection.exec_driver_sql("PRAGMA foreign_key_check")]  # fmt: skip
    return [f"file: {line}" for line in found if line != "ok"] + lost


def check_search(connection: Connection, search_id: int, recipe: Recipe, judge: Judge) -> Report:
    """Compare a search with what its seed must give, as ``judge`` draws and checks it."""
    row = connection.execute(sa.select(search).where(search.c.id == search_id)).one()
    report = Report(drawn=row.drawn)
    counted: Counter[Kind] = Counter()
    firsts: dict[Kind, int] = {}
    for start in range(0, row.drawn, CHUNK):
        stop = min(start + CHUNK, row.drawn)
        stored = {
            found.draw_index: found
            for found in connection.execute(
                sa.select(candidate).where(
                    candidate.c.search_id == search_id, candidate.c.draw_index >= start, candidate.c.draw_index < stop
                )
            )
        }
        report.distinct += len(stored)
        for found in stored.values():
            kind = (found.status, found.reason or "", NO_LAYER if found.layer is None else found.layer)
            counted[kind] += 1
            if found.reason:
                firsts[kind] = min(found.draw_index, firsts.get(kind, found.draw_index))
        report.wrong += _drawing(connection, search_id, judge(start, stop), stored)
        for found in stored.values():
            report.wrong += [f"candidate {found.draw_index}: {what}" for what in _contradictions(found, recipe)]
    report.repeats = report.drawn - report.distinct
    report.wrong += _numbers(connection, row, counted, firsts)
    report.wrong += _leases(connection, row)
    report.wrong += _attempts(connection, search_id)
    return report


def _drawing(
    connection: Connection, search_id: int, drawings: Sequence[Drawn], stored: Mapping[int, Row[Any]]
) -> Iterator[str]:
    """Each index has the row that it was first drawn as, or is a repeat of an earlier one."""
    absent = [drawn for drawn in drawings if drawn.index not in stored]
    firsts = _where(connection, search_id, [architecture_digest(drawn.layers) for drawn in absent])
    for drawn in absent:
        first = firsts.get(architecture_digest(drawn.layers))
        if first is None:
            yield f"candidate {drawn.index}: {quoted(drawn.layers, SHOWN)} is drawn there, and is missing"
        elif first > drawn.index:
            yield f"candidate {first}: was drawn before, at index {drawn.index}"
    for drawn in drawings:
        row = stored.get(drawn.index)
        if row is not None:
            yield from _differences(drawn, row)


def _where(connection: Connection, search_id: int, digests: list[bytes]) -> dict[bytes, int]:
    """The indices of those of the digests that are stored."""
    rows = connection.execute(
        sa.select(candidate.c.digest, candidate.c.draw_index).where(
            candidate.c.search_id == search_id, one_of_digests(connection, digests)
        )
    )
    return {bytes(row.digest): row.draw_index for row in rows}


def _differences(drawn: Drawn, row: Row[Any]) -> Iterator[str]:
    """Where a row is not what its index draws and the shape checker says."""
    verdict = drawn.verdict
    if row.layers != drawn.layers:
        yield f"candidate {row.draw_index}: layers {quoted(row.layers, SHOWN)}, drawn are {quoted(drawn.layers, SHOWN)}"
        return
    if bytes(row.digest) != architecture_digest(drawn.layers):
        yield f"candidate {row.draw_index}: the digest is not that of its layers"
    if (row.status == Status.REJECTED) == verdict.valid:
        yield f"candidate {row.draw_index}: is {row.status}, and the shape checker says {verdict.reason or 'valid'}"
        return
    expected: dict[str, object] = {"parameters": verdict.parameters, "macs": verdict.macs}
    if not verdict.valid:
        expected |= {"reason": verdict.reason, "layer": verdict.layer, "detail": verdict.detail}
    for name, value in expected.items():
        if (found := getattr(row, name)) != value:
            yield f"candidate {row.draw_index}: {name} is {quoted(str(found))}, the shape checker says {value}"


def _contradictions(row: Row[Any], recipe: Recipe) -> Iterator[str]:
    """Where a row's status, curve and measurements do not agree."""
    curve = row.curve or []
    last = tuple(curve[-1]) if curve else (None, None, None)
    if row.epochs != len(curve) or (row.train_loss, row.val_loss, row.val_accuracy) != last:
        yield f"its curve has {len(curve)} epochs and ends with {last}, its columns say otherwise"
    if any(len(epoch) != 3 or not 0 <= epoch[2] <= 1 or not all(map(math.isfinite, epoch)) for epoch in curve):
        yield "its curve has a loss that is not finite, or an accuracy that is not from 0 to 1"
    match Status(row.status):
        case Status.COMPLETED if row.epochs != recipe.epochs:
            yield f"is completed after {row.epochs} epochs of {recipe.epochs}"
        case Status.COMPLETED if row.attempts < 1 or row.seconds is None:
            yield f"is completed after {row.attempts} attempts and {row.seconds} s"
        case Status.FAILED if row.reason not in set(FailureReason):
            yield f"has failed for {quoted(str(row.reason))}, which is no reason"
        case Status.OPEN if curve or row.seconds is not None or row.reason is not None:
            yield "is open, and has an outcome"
        case Status.REJECTED if curve or row.attempts or row.seconds is not None:
            yield "is rejected, and was trained"
        case _:
            pass


def _numbers(
    connection: Connection, row: Row[Any], counted: Counter[Kind], firsts: Mapping[Kind, int]
) -> Iterator[str]:
    """The tallies and their examples are what the rows give, and no row is where none was drawn."""
    if row.drawn > row.target:
        yield f"{row.drawn} candidates are drawn of {row.target}"
    beyond = connection.scalar(
        sa.select(sa.func.count())
        .select_from(candidate)
        .where(candidate.c.search_id == row.id, (candidate.c.draw_index >= row.drawn) | (candidate.c.draw_index < 0))
    )
    if beyond:
        yield f"{beyond} candidates have an index that was not drawn"
    tallies: Counter[Kind] = Counter()
    for found in connection.execute(sa.select(tally).where(tally.c.search_id == row.id, tally.c.candidates != 0)):
        kind = (found.status, found.reason, found.layer)
        tallies[kind] = found.candidates
        if found.first_index != firsts.get(kind):
            first = firsts.get(kind)
            yield f"the example of {found.status} {found.reason} is {found.first_index}, the first is {first}"
    for key in sorted(tallies.keys() | counted.keys()):
        if tallies[key] != counted[key]:
            status, reason, layer = key
            where = "" if layer == NO_LAYER else f" at layer {layer}"
            yield f"the tally of {status} {reason}{where} is {tallies[key]}, there are {counted[key]}"


def _leases(connection: Connection, row: Row[Any]) -> Iterator[str]:
    """No two leases overlap; each is of a claim that was made, by a coordinator that has not ended."""
    leases = connection.execute(
        sa.select(lease, coordinator.c.ended_at)
        .join(coordinator, lease.c.coordinator_id == coordinator.c.id)
        .where(lease.c.search_id == row.id)
        .order_by(lease.c.first_index)
    ).all()
    for one, other in pairwise(leases):
        if one.stop_index > other.first_index:
            yield f"leases {one.epoch} and {other.epoch} overlap at candidate {other.first_index}"
    for found in leases:
        if not (1 <= found.epoch <= row.claims and 0 <= found.first_index < found.stop_index <= row.drawn):
            yield f"lease {found.epoch} is of no claim that was made"
        if found.ended_at is not None:
            yield f"lease {found.epoch} is of coordinator {found.coordinator_id}, which has ended"


def _attempts(connection: Connection, search_id: int) -> Iterator[str]:
    """Attempts are at candidates that are trained; what is in flight is leased; nothing is blamed too often."""
    status = sa.and_(candidate.c.search_id == attempt.c.search_id, candidate.c.draw_index == attempt.c.draw_index)
    held = sa.and_(lease.c.search_id == attempt.c.search_id, lease.c.epoch == attempt.c.epoch)
    joined = attempt.outerjoin(candidate, status).outerjoin(lease, held)
    of_search = attempt.c.search_id == search_id
    odd = sa.or_(
        candidate.c.status.is_(None),
        candidate.c.status == Status.REJECTED,
        attempt.c.ending.is_(None) & ((candidate.c.status != Status.OPEN) | lease.c.epoch.is_(None)),
    )
    for row in connection.execute(sa.select(attempt, candidate.c.status).select_from(joined).where(of_search, odd)):
        what = f"ended with {row.ending}" if row.ending else f"in flight under epoch {row.epoch}"
        yield f"candidate {row.draw_index}: attempt {row.number} is {what}, the candidate {row.status or 'missing'}"
    blamed = sa.select(attempt.c.draw_index, sa.func.count().label("times"))
    blamed = blamed.where(of_search, attempt.c.ending.in_(CHARGED), ~attempt.c.forgiven)
    for row in connection.execute(blamed.group_by(attempt.c.draw_index).having(sa.func.count() > MOST_CHARGES)):
        yield f"candidate {row.draw_index}: is blamed for {row.times} attempts, {MOST_CHARGES} at the most"
