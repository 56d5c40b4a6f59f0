"""Filters, orders and columns, against the same in plain Python, on both databases."""

import operator
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from search.errors import SettingsError
from storage.engine import open_for_reading, open_for_writing
from storage.schema import SORTED_BY_INDEX
from storage.selection import FIELDS, KEYS, Condition, Order, Selection, parse_columns, select
from tests.filled import fill


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def connection(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A reader of a search with rows of every kind, and of another search beside it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'search.db'}"
    else:
        url = request.getfixturevalue("postgres_server").new_database()
    writer = open_for_writing(url)
    fill(writer)
    fill(writer, "other", draws=50)
    writer.dispose()
    reader = open_for_reading(url)
    with reader.connect() as connection:
        yield connection
    reader.dispose()


def ask(connection: Connection, **selection: Any) -> list[dict[str, Any]]:
    chosen = Selection(**{"columns": FIELDS, **selection})
    return [dict(zip(chosen.columns, row, strict=True)) for row in select(connection, 1, chosen)]


def test_everything_comes_in_index_order(connection: Connection) -> None:
    """Without a wish, all candidates of that search, as they were drawn."""
    rows = ask(connection)
    assert [row["index"] for row in rows] == sorted(row["index"] for row in rows)
    assert len(rows) == connection.scalar(sa.text("SELECT count(*) FROM candidate WHERE search_id = 1"))
    assert {row["status"] for row in rows} == {"rejected", "completed", "failed", "open"}


COMPARED = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
            ">=": operator.ge, "~": lambda a, b: b in a, "!~": lambda a, b: b not in a}  # fmt: skip
TEXTS = [
    "val_accuracy>=0.7", "val_accuracy<0.5", "parameters<2000", "macs >= 10,000", "reason=none", "reason!=none",
    "status=completed", "status!=rejected", "layers~maxpool", "layers!~conv", "reason=channels_exceed_side",
    "reason!=exception", "layer=0", "layer!=1", "epochs>1", "val_loss<=1.5", "seconds>1.2", "detail~channels",
    "layers<conv", "layers>=dropout=p:0.4-",
    "layers~%", "layers~_", "layers~CONV", "layers!~CONV", "index<100", "attempts=1", "test_accuracy=none",
]  # fmt: skip


def fulfils(row: dict[str, Any], condition: Condition) -> bool:
    value = row[condition.field]
    if condition.value is None:
        return (value is None) == (condition.operator == "=")
    if value is None:
        return condition.operator.startswith("!")
    return bool(COMPARED[condition.operator](value, condition.value))


def in_order(rows: list[dict[str, Any]], orders: list[Order]) -> list[dict[str, Any]]:
    """Sorted by each key from the last to the first, missing values last; ties by index, as documented."""
    rows = sorted(rows, key=lambda row: row["index"])
    if len(orders) == 1 and orders[0].descending:
        field = orders[0].field
        with_value = sorted((r for r in rows if r[field] is not None), key=lambda r: (r[field], r["index"]))
        return [*reversed(with_value), *(r for r in rows if r[field] is None)]
    for order in reversed(orders):
        with_value = [r for r in rows if r[order.field] is not None]
        with_value.sort(key=lambda r: r[order.field], reverse=order.descending)
        rows = [*with_value, *(r for r in rows if r[order.field] is None)]
    return rows


SORTED = [
    "layers",
    "detail",
    "status",
    "index",
    "layer",
    "parameters",
    "macs",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "epochs",
    "seconds",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_any_selection_is_what_plain_python_selects(connection: Connection, data: st.DataObject) -> None:
    """Conditions, orders and limits, all together."""
    everything = ask(connection)
    where = tuple(map(Condition.parse, data.draw(st.lists(st.sampled_from(TEXTS), max_size=3))))
    names = data.draw(st.lists(st.sampled_from(SORTED), max_size=3, unique=True))
    orders = [order for name in names for order in Order.parse(data.draw(st.sampled_from(["", "-"])) + name)]
    limit = data.draw(st.none() | st.integers(1, 700))
    expected = in_order([row for row in everything if all(fulfils(row, c) for c in where)], orders)
    assert ask(connection, where=where, sort=tuple(orders), limit=limit) == expected[:limit]


def test_columns_come_as_they_are_asked_for(connection: Connection) -> None:
    """In that order, and no others."""
    rows = ask(connection, columns=parse_columns("val_accuracy, index,layers"), limit=3)
    assert [list(row) for row in rows] == [["val_accuracy", "index", "layers"]] * 3


@pytest.mark.parametrize("field", SORTED_BY_INDEX)
def test_documented_orders_are_read_from_an_index(connection: Connection, field: str) -> None:
    """From either end, SQLite reads the index and sorts nothing (Postgres plans by its statistics)."""
    if connection.dialect.name != "sqlite":
        pytest.skip("Postgres plans by its statistics; tests/benchmarks shows times")
    for sign, last in (("", "ASC"), ("-", "DESC")):
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN SELECT layers FROM candidate WHERE search_id = 1 AND {field} IS NOT NULL "
            f"ORDER BY {field} {last}, draw_index {last} LIMIT 5"
        )
        details = " ".join(str(row[-1]) for row in plan)
        assert f"ix_candidate_{field}" in details, sign
        assert "TEMP B-TREE" not in details


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("accuracy>0.5", "no field 'accuracy'; the fields are index, layers"),
        ("val_accuracy", "write field, operator, value"),
        ("val_accuracy>>1", "compared with a number, not with '>1'"),
        ("parameters=many", "compared with a whole number, not with 'many'"),
        ("parameters=1.5", "compared with a whole number"),
        ("status=done", "status is never 'done'; it is one of rejected, open, completed, failed"),
        ("reason=bad", "reason is never 'bad'"),
        ("status=none", "status is never 'none'"),
        ("index=none", "compared with a whole number"),
        ("parameters~5", "~ is for text"),
        ("val_loss<nan", "no finite number"),
        ("val_loss==1", "write a single ="),
        ("layers~", "write the text that layers contains"),
        ("parameters<99999999999999999999", "beyond what is stored"),
        ("", "write field, operator, value"),
        ("layers~\udcff", r"--where 'layers~\udcff': is not UTF-8 text"),
    ],
)
def test_a_bad_condition_says_what_may_be_written(text: str, says: str) -> None:
    """With the condition and the field."""
    with pytest.raises(SettingsError) as error:
        Condition.parse(text)
    assert says in str(error.value)


def test_bad_orders_and_columns_list_the_fields() -> None:
    """What may be written is in the message."""
    for parse, text in ((Order.parse, "speed"), (Order.parse, ""), (parse_columns, "index,speed"), (parse_columns, "")):
        with pytest.raises(SettingsError, match=f"the fields are {', '.join(KEYS)}"):
            parse(text)
    with pytest.raises(SettingsError, match="index stands twice"):
        parse_columns("index,index")


def test_text_is_ordered_by_code_point_in_any_language(connection: Connection) -> None:
    """A Postgres database may sort as a dictionary does (none of the server here can: the statement is looked at)."""
    query = sa.select(Order("layers").clause(), Condition.parse("detail<x").clause())
    statement = str(query.compile(connection))
    assert statement.count('COLLATE "C"') == (2 if connection.dialect.name == "postgresql" else 0)
    assert "COLLATE" not in str(sa.select(Order("macs").clause()).compile(connection))
