"""Searches as they stand in a database, written straight into it: also of states that take long to reach."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa

from search.candidates import Status
from search.errors import LayerStringError
from search.layer_string import parse
from search.settings import Recipe, SearchSettings
from search.shapes import check
from search.space import CLASSIC
from storage import schema
from storage.engine import open_for_writing
from storage.schema import NO_LAYER, attempt, candidate, coordinator, search, tally

CONV = "conv=channel_factor:{},kernel_size:3,stride:1,padding:0-"
STRINGS = (
    CONV.format(2) + "dropout=p:0.2-",
    CONV.format(4) + "maxpool=kernel_size:2,stride:2,padding:0-",
    "batchnorm=eps:0.0001-" + CONV.format(3),
    "avgpool=kernel_size:4,stride:4,padding:0-dropout=p:0.4-",
    CONV.format(3) + CONV.format("0.6") + "batchnorm=eps:0.00001-",
)
SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 7, "digits", "00ff", Recipe(epochs=2), "cpu")
BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """A candidate to be recorded."""

    layers: str
    status: Status = Status.COMPLETED
    accuracy: float = 0.5
    reason: str | None = None
    detail: str | None = None
    layer: int | None = None
    seconds: float = 2.0
    curve: list[list[float]] = field(default_factory=lambda: [[2.0, 1.9, 0.3], [1.0, 0.9, 0.5]])

    def values(self, index: int) -> dict[str, Any]:
        """As the database holds it."""
        trained = self.status is Status.COMPLETED
        try:
            verdict = check(parse(self.layers), CLASSIC.rules)
            costs = verdict.parameters or 1, verdict.macs or 1
        except LayerStringError:  # what no netsieve would have written
            costs = 10, 20
        rejected = self.status is Status.REJECTED
        return {
            "search_id": 1, "draw_index": index, "digest": hashlib.sha256(b"%d" % index).digest()[:16],
            "layers": self.layers, "status": self.status.value, "reason": self.reason, "layer": self.layer,
            "detail": self.detail, "parameters": None if rejected else costs[0],
            "macs": None if rejected else costs[1],
            "train_loss": self.curve[-1][0] if trained else None, "val_loss": self.curve[-1][1] if trained else None,
            "val_accuracy": self.accuracy if trained else None, "epochs": len(self.curve) if trained else 0,
            "curve": self.curve if trained else None, "seconds": self.seconds if trained else None,
            "attempts": int(trained),
            "ended_at": BEGAN + timedelta(seconds=60 * index) if trained else None,
        }  # fmt: skip


def record(
    url: str,
    rows: Iterable[Row] = (),
    *,
    name: str = "first",
    target: int = 100,
    drawn: int | None = None,
    at_work: bool = False,
    runs: int = 1,
    settings: SearchSettings = SETTINGS,
    attempts: Iterable[str | None] = (),
    listed: Iterable[str] = (),
) -> None:
    """A database with one search of those candidates, drawn at 0, 1, 2 and so on; ``drawn`` more are repeats.

    ``listed`` are the strings of a search of a list.
    """
    engine = open_for_writing(url)
    with engine.begin() as connection:
        connection.execute(
            search.insert().values(
                id=1, name=name, settings=settings.as_dict(), target=target, drawn=0, created_at=BEGAN,
                netsieve_version="0.0.9",
            )
        )  # fmt: skip
        for number in range(runs):
            started = BEGAN + timedelta(hours=number)
            working = at_work and number == runs - 1
            connection.execute(
                coordinator.insert().values(
                    search_id=1, host=f"node{number}", boot_id="elsewhere", pid=41 + number, pid_started=1,
                    started_at=started, seen_at=datetime.now(UTC) if working else started + timedelta(minutes=30),
                    ended_at=None if working else started + timedelta(minutes=30),
                    ending=None if working else "SIGINT <once>",
                    versions={"torch": "2.13.0", "processor": "Some <CPU>"},
                )
            )  # fmt: skip
        strings = [{"search_id": 1, "draw_index": index, "layers": layers} for index, layers in enumerate(listed)]
        if strings:
            connection.execute(schema.listed.insert(), strings)
        count = 0
        for chunk in _chunks(row.values(index) for index, row in enumerate(rows)):
            connection.execute(candidate.insert(), chunk)
            count += len(chunk)
        connection.execute(search.update().values(drawn=count if drawn is None else drawn))
        for number, ending in enumerate(attempts):
            connection.execute(
                attempt.insert().values(
                    search_id=1, draw_index=number, number=1, epoch=1, coordinator_id=1, isolated=False,
                    dispatched_at=BEGAN, ending=ending,
                )
            )  # fmt: skip
        grouped = sa.select(
            candidate.c.search_id,
            candidate.c.status,
            sa.func.coalesce(candidate.c.reason, ""),
            sa.func.coalesce(candidate.c.layer, NO_LAYER),
            sa.func.count(),
            sa.case((candidate.c.reason.is_not(None), sa.func.min(candidate.c.draw_index))),
        ).group_by(*(candidate.c[key] for key in ("search_id", "status", "reason", "layer")))
        connection.execute(
            tally.insert().from_select(["search_id", "status", "reason", "layer", "candidates", "first_index"], grouped)
        )
    engine.dispose()


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(islice(rows, 5_000)):
        yield chunk


def mixed(number: int) -> Iterator[Row]:
    """Candidates of every status: of five two are completed, one is rejected, one failed and one open."""
    for i in range(number):
        layers = STRINGS[i % len(STRINGS)]
        match i % 5:
            case 0 | 1:
                yield Row(layers, accuracy=0.1 + 0.8 * ((i * 37) % 101) / 101)
            case 2:
                reason = "kernel_exceeds_input" if i % 2 else "channels_below_one"
                yield Row(layers, Status.REJECTED, reason=reason, layer=i % 3, detail=f"rejected {i}")
            case 3:
                yield Row(layers, Status.FAILED, reason="timeout" if i % 2 else "exception", detail=f"failed {i % 4}")
            case _:
                yield Row(layers, Status.OPEN)
