"""Results as pandas DataFrames, for notebooks: ``pip install 'netsieve[pandas]'``.

    from storage import frames

    best = frames.candidates("sqlite:///netsieve.db", "first", where="status=completed", sort="-val_accuracy")
    curves = frames.measurements("sqlite:///netsieve.db", "first", where="val_accuracy>=0.9")

A DataFrame is held in memory: for many millions of rows, name the columns, or read a Parquet file of
``netsieve export`` in parts.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from search.errors import InvalidInput
from storage import queries
from storage.engine import open_for_reading, shown, translated
from storage.selection import (
    EPOCH,
    FIELDS,
    WORDS,
    Condition,
    Field,
    Order,
    Selection,
    parse_columns,
    select,
    select_measurements,
)

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_ONCE = 50_000  # held as Python's values, before they are put into columns


def candidates(
    url: str,
    name: str,
    *,
    where: str | Iterable[str] = (),
    sort: str | None = None,
    columns: str | Iterable[str] = FIELDS,
) -> "pd.DataFrame":
    """The candidates of a search: a row each, in index order unless sorted, a column a field.

    ``where`` and ``sort`` are written as for ``netsieve candidates``: a condition, or several that all hold
    (``"val_accuracy>=0.97"``), and fields with commas between them (``"-val_accuracy,index"``).

    Dtypes: whole numbers ``int64``, or ``Int64`` where values can be missing (``layer``, ``parameters``, ``macs``);
    losses, accuracies (0 to 1) and seconds ``float64``, NaN where there are none; ``status`` and ``reason`` categories
    of all the values there can be; ``layers`` and ``detail`` ``string``. Also where there is no row.

    Raises SettingsError: a malformed condition, order or column; UnknownSearch; DatabaseError: nothing there, or
    not netsieve's; DatabaseAway; InvalidInput: pandas is not installed.
    """
    return _frame(url, name, _selection(where, sort, columns), per_epoch=False)


def measurements(
    url: str,
    name: str,
    *,
    where: str | Iterable[str] = (),
    sort: str | None = None,
    columns: str | Iterable[str] = ("index",),
) -> "pd.DataFrame":
    """The learning curves of the selected candidates: a row a finished epoch.

    First the named columns of the candidate, then ``epoch`` (``int64``, from 1), ``train_loss``, ``val_loss`` and
    ``val_accuracy`` (``float64``) after it. Otherwise as ``candidates``; SettingsError also for a column that is one
    of the epoch's. ``.pivot(index="epoch", columns="index", values="val_accuracy")`` is ready to be plotted.
    """
    return _frame(url, name, _selection(where, sort, columns), per_epoch=True)


def _selection(where: str | Iterable[str], sort: str | None, columns: str | Iterable[str]) -> Selection:
    conditions = tuple(map(Condition.parse, [where] if isinstance(where, str) else where))
    return Selection(
        conditions,
        tuple(Order.parse(sort)) if sort else (),
        parse_columns(columns if isinstance(columns, str) else ",".join(columns)),
    )


def _frame(url: str, name: str, selection: Selection, *, per_epoch: bool) -> "pd.DataFrame":
    try:
        import pandas as pd  # noqa: PLC0415  # an extra, and slow to load
    except ImportError:
        raise InvalidInput("needs pandas; pip install 'netsieve[pandas]'") from None
    names = [*selection.columns, *(EPOCH if per_epoch else ())]
    dtypes = {name: _dtype(pd, Field.of(name)) for name in names}
    engine = open_for_reading(url)
    with translated(shown(url)), engine.connect() as connection:
        search = queries.require(connection, name)
        rows = (select_measurements if per_epoch else select)(connection, search.id, selection)
        parts = list(_parts(pd, rows, dtypes))
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]


def _parts(pd: Any, rows: Iterator[tuple[Any, ...]], dtypes: dict[str, Any]) -> "Iterator[pd.DataFrame]":
    """The rows, some at a time; one part at least."""
    group = list(islice(rows, ROWS_AT_ONCE))
    while True:
        values = list(zip(*group, strict=True)) or [()] * len(dtypes)
        yield pd.DataFrame(
            {name: pd.Series(column, dtype=dtypes[name]) for name, column in zip(dtypes, values, strict=True)}
        )
        group = list(islice(rows, ROWS_AT_ONCE))
        if not group:
            return


def _dtype(pd: Any, field: Field) -> Any:
    if field.name in WORDS:
        return pd.CategoricalDtype([str(word) for word in WORDS[field.name]])
    if field.kind is int:
        return "Int64" if field.nullable else "int64"
    return "float64" if field.kind is float else "string"
