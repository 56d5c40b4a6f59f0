"""Rows to files, as they come: CSV, JSON lines, Parquet. Memory does not grow with their number."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

from search.errors import InvalidInput

if TYPE_CHECKING:
    from storage.selection import Field

ROW_GROUP = 20_000  # rows of a Parquet file that are compressed, and can be read, together

Rows = Iterable[Sequence[Any]]


def write_csv(file: BinaryIO, names: Sequence[str], rows: Rows) -> None:
    """A header, then a line a row: nothing for a missing value, JSON for a nested one."""
    with _as_text(file) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow(json.dumps(value) if isinstance(value, dict | list) else value for value in row)


def write_jsonl(file: BinaryIO, names: Sequence[str], rows: Rows) -> None:
    """An object a line."""
    with _as_text(file) as text:
        for row in rows:
            text.write(json.dumps(dict(zip(names, row, strict=True)), allow_nan=False) + "\n")


@contextmanager
def _as_text(file: BinaryIO) -> Iterator[io.TextIOWrapper]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()  # the file is its opener's, and stays open


def write_parquet(file: BinaryIO, fields: "Sequence[Field]", rows: Rows, metadata: Mapping[str, str]) -> None:
    """Row groups of typed columns, under the metadata. Raises InvalidInput without pyarrow."""
    arrow = require_arrow()
    from pyarrow import parquet

    types = {int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    schema = arrow.schema(
        [arrow.field(field.name, types[field.kind], nullable=field.nullable) for field in fields], dict(metadata)
    )
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        remaining = iter(rows)
        while group := list(islice(remaining, ROW_GROUP)):
            values = zip(*group, strict=True)
            arrays = [arrow.array(column, kind) for column, kind in zip(values, schema.types, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def require_arrow() -> Any:
    """The module pyarrow. Raises InvalidInput, with how to install it."""
    try:
        import pyarrow as pa
    except ImportError:
        raise InvalidInput("--format parquet: needs pyarrow; pip install 'netsieve[parquet]'") from None
    return pa
