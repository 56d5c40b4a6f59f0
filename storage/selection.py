"""The candidates of a search as people ask for them: filtered, sorted, a few columns, streamed.

A condition is ``field operator value``: ``val_accuracy>=0.97``, ``layers~maxpool``, ``reason=none``. A
sorted answer begins with the candidates that have a value, and ends with those that have none, in index
order: rejected candidates have no accuracy, and nobody asks for them first.
"""

import math
import operator
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from search.candidates import FailureReason, RejectionReason, Status
from search.errors import SettingsError, quoted
from search.settings import LARGEST_INTEGER
from storage.queries import CandidateRow
from storage.schema import candidate

ROWS_AT_ONCE = 1_000  # fetched; what an answer of any length holds in memory
CURVES_AT_ONCE = 100  # likewise, of candidates with all their epochs

KEYS = tuple(CandidateRow.__annotations__)  # the columns of an answer, unless others are asked for
FIELDS = (*KEYS, "test_loss", "test_accuracy", "detail")

EPOCH = ("epoch", "train_loss", "val_loss", "val_accuracy")  # what is measured after each

Column = sa.ColumnElement[Any]


class by_code_point(FunctionElement[str]):  # noqa: N801  # named as a function of SQL is
    """A text, ordered by code point as SQLite does it, whatever language a Postgres database sorts by."""

    inherit_cache = True
    type = sa.Text()


@compiles(by_code_point)
def _(element: by_code_point, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(by_code_point, "postgresql")
def _(element: by_code_point, compiler: Any, **options: Any) -> str:
    return f'{compiler.process(element.clauses, **options)} COLLATE "C"'


Comparison = Callable[[Any, Any], sa.ColumnElement[bool]]

NONE = "none"  # what a condition writes for a missing value
WORDS = {"status": [*Status], "reason": [*RejectionReason, *FailureReason]}  # the values that a field can have
OPERATORS: dict[str, Comparison] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    # Contains: by replace, which minds upper and lower case on both databases, as LIKE does not on SQLite.
    "~": lambda column, text: sa.func.replace(column, text, "") != column,
    "!~": lambda column, text: sa.func.replace(column, text, "") == column,
}
_CONDITION = re.compile(r"\s*([A-Za-z_]+)\s*(<=|>=|!=|!~|=|<|>|~)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """What a candidate must fulfil to be selected."""

    field: str
    operator: str
    value: str | float | int | None

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """The condition that a text writes. Raises SettingsError, with what may be written."""
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
            raise SettingsError(f"--where {quoted(text)}: is not UTF-8 text; write it in UTF-8") from None
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise SettingsError(
                f"--where {quoted(text)}: write field, operator, value, such as 'val_accuracy>=0.97'; "
                f"the operators are {' '.join(OPERATORS)}"
            )
        field, sign, value = match.groups()
        _require_field("--where", field)
        return cls(field, sign, _value(text, field, sign, value))

    def clause(self) -> sa.ColumnElement[bool]:
        """The condition as SQL; a missing value fulfils ``!=`` and ``!~``, and nothing else but ``= none``."""
        column = _column(self.field)
        if self.value is None:
            return column.is_(None) if self.operator == "=" else column.is_not(None)
        if self.field == "status" and self.operator == "=":
            return column == sa.text(f"'{self.value}'")  # literally, so that a partial index serves
        if self.operator[0] in "<>":
            column = _ordered(self.field)
        clause = OPERATORS[self.operator](column, self.value)
        return clause | column.is_(None) if self.operator.startswith("!") else clause


@dataclass(frozen=True)
class Order:
    """A field that an answer is sorted by."""

    field: str
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> "list[Order]":
        """Fields with commas between them, a '-' before one that descends. Raises SettingsError."""
        orders = [cls(word.lstrip("-"), word.startswith("-")) for word in map(str.strip, text.split(","))]
        for order in orders:
            _require_field("--sort", order.field)
        return orders

    def clause(self) -> Column:
        """The order as SQL."""
        column = _ordered(self.field)
        return column.desc() if self.descending else column.asc()


@dataclass(frozen=True)
class Selection:
    """Which candidates, in which order, and what of them."""

    where: tuple[Condition, ...] = ()  # all must be fulfilled
    sort: tuple[Order, ...] = ()  # none: in index order
    columns: tuple[str, ...] = KEYS
    limit: int | None = None  # rows


@dataclass(frozen=True)
class Field:
    """A column of an answer, for files and tables that have types."""

    name: str
    kind: type[int] | type[float] | type[str]
    nullable: bool  # whether values are missing at times

    @classmethod
    def of(cls, name: str) -> "Field":
        """A column of a candidate, or the epoch."""
        if name == "epoch":
            return cls(name, int, nullable=False)
        column = _column(name)
        return cls(name, column.type.python_type, bool(column.nullable))


def parse_columns(text: str) -> tuple[str, ...]:
    """Fields with commas between them. Raises SettingsError for one that is not, or that stands twice."""
    names = tuple(map(str.strip, text.split(",")))
    for name in names:
        _require_field("--columns", name)
        if names.count(name) > 1:
            raise SettingsError(f"--columns {quoted(text)}: {name} stands twice; keep one")
    return names


def select(connection: Connection, search_id: int, selection: Selection) -> Generator[tuple[Any, ...]]:
    """The selected candidates, a tuple of the columns each, streamed: memory does not grow with the answer.

    One that may not be read to its end has to be closed before the connection is.
    """
    yield from _rows(connection, search_id, selection, sa.select(*map(_column, selection.columns)), ROWS_AT_ONCE)


def select_measurements(connection: Connection, search_id: int, selection: Selection) -> Generator[tuple[Any, ...]]:
    """A tuple a finished epoch of the selected candidates: the columns, then EPOCH; streamed as by ``select``.

    Raises SettingsError for a column that is one of an epoch's already.
    """
    for name in selection.columns:
        if name in EPOCH:
            raise SettingsError(f"--columns: {name} stands in each epoch's row already; leave it out")
    query = sa.select(*map(_column, selection.columns), candidate.c.curve).where(candidate.c.epochs > 0)
    return (
        (*values, epoch, *losses)
        for *values, curve in _rows(connection, search_id, selection, query, CURVES_AT_ONCE)
        for epoch, losses in enumerate(curve, 1)
    )


def _rows(
    connection: Connection, search_id: int, selection: Selection, query: sa.Select[Any], at_once: int
) -> Generator[tuple[Any, ...]]:
    left = LARGEST_INTEGER if selection.limit is None else selection.limit
    for part in _parts(query.where(candidate.c.search_id == search_id), selection):
        # The option is the statement's: set on the connection, it would be that of all later ones.
        with connection.execute(part.limit(left), execution_options={"yield_per": at_once}) as found:
            for row in found:
                left -= 1
                yield tuple(row)
        if not left:
            return


def _parts(query: sa.Select[Any], selection: Selection) -> Iterator[sa.Select[Any]]:
    """One for the candidates that have a value to be sorted by, which an index serves, and one for the rest."""
    query = query.where(*(condition.clause() for condition in selection.where))
    if not selection.sort or selection.sort[0].field == "index":
        descends = bool(selection.sort) and selection.sort[0].descending
        yield query.order_by(candidate.c.draw_index.desc() if descends else candidate.c.draw_index)
        return
    first, *others = selection.sort
    column = _column(first.field)
    orders = [order.clause().nulls_last() for order in others]
    # Backwards, an index gives equal values by descending index; without a second key that is the order then.
    last = candidate.c.draw_index.desc() if first.descending and not others else candidate.c.draw_index
    yield query.where(column.is_not(None)).order_by(first.clause(), *orders, last)
    if column.nullable:
        yield query.where(column.is_(None)).order_by(*orders, candidate.c.draw_index)


def _column(field: str) -> Column:
    return candidate.c["draw_index" if field == "index" else field]


def _ordered(field: str) -> Column:
    """A field as it is sorted and compared by."""
    column = _column(field)
    return by_code_point(column) if isinstance(column.type, sa.String) else column


def _require_field(option: str, field: str) -> None:
    if field not in FIELDS:
        raise SettingsError(f"{option}: there is no field {quoted(field)}; the fields are {', '.join(FIELDS)}")


def _value(text: str, field: str, sign: str, value: str) -> str | float | int | None:
    """The value that is compared with, of the field's type. Raises SettingsError."""
    where = f"--where {quoted(text)}"
    kind = _column(field).type.python_type
    if value.lower() == NONE and sign in {"=", "!="} and _column(field).nullable:
        return None
    if "~" in sign and not value:
        raise SettingsError(f"{where}: write the text that {field} contains after {sign}")
    if value.startswith("="):
        raise SettingsError(f"{where}: write a single = for equal")
    if "~" in sign and kind is not str:
        raise SettingsError(f"{where}: {sign} is for text, and {field} is a number; write {field}>=1, for example")
    if kind is str:
        known = WORDS.get(field, []) if sign in {"=", "!="} else []
        if known and value not in known:
            words = ", ".join([*known, NONE] if _column(field).nullable else known)
            raise SettingsError(f"{where}: {field} is never {quoted(value)}; it is one of {words}")
        return value
    try:
        number = float(value) if kind is float else int(value.replace(",", "").replace("_", ""))
    except ValueError:
        what = "a number" if kind is float else "a whole number"
        raise SettingsError(f"{where}: {field} is compared with {what}, not with {quoted(value)}") from None
    if not math.isfinite(number):
        raise SettingsError(f"{where}: no finite number; write {field}!={NONE} for those that have one")
    if abs(number) > LARGEST_INTEGER:
        raise SettingsError(f"{where}: {quoted(value)} is beyond what is stored; the largest is 2^63 - 1")
    return number
