"""A file of layer strings, to be searched: baselines, other people's networks, the top of another search."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from search.errors import InvalidInput, LayerStringError, quoted
from search.layer_string import LONGEST_STRING, format_architecture, parse

MOST_STRINGS = 1_000_000  # that a list may hold; more are drawn, not listed
LONGEST_LINE = 4 * LONGEST_STRING  # characters; other columns may stand beside a string


def read_strings(path: Path) -> tuple[str, ...]:
    """The canonical strings of a file: a string a line, or CSV with a column, or JSON lines with a key, ``layers``.

    Empty lines and lines that begin with '#' are skipped. So ``netsieve top NAME --format jsonl`` gives such a
    file. Raises InvalidInput: unreadable, empty, or malformed, with the number of the line.
    """
    strings = []
    csv.field_size_limit(LONGEST_LINE)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for where, text in _texts(path, _lines(path, file)):
                strings.append(_canonical(where, text))
                if len(strings) > MOST_STRINGS:
                    raise InvalidInput(f"--strings {path}: more than {MOST_STRINGS:,} strings; split the file")
    except OSError as error:
        raise InvalidInput(f"--strings {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"--strings {path}: is not UTF-8 text") from None
    except csv.Error as error:
        raise InvalidInput(f"--strings {path}: is no CSV ({error})") from None
    if not strings:
        raise InvalidInput(f"--strings {path}: holds no layer string; write one a line")
    return tuple(strings)


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines of a file; none is read further than a line of a list may go."""
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), ""), 1):
        if len(line) == LONGEST_LINE:
            raise InvalidInput(f"--strings {path}, line {number}: is longer than {LONGEST_LINE:,} characters")
        yield line


def _texts(path: Path, lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Each string with where it stands."""
    for number, line in enumerate(lines, 1):
        where, text = f"--strings {path}, line {number}", line.strip()
        if not text or text.startswith("#"):
            continue
        header = _fields(text)
        if header == ["layers"]:  # a title over plain strings, in quotes or not
            continue
        if "layers" in header:  # CSV: the rest is its rows
            column = header.index("layers")
            rows = csv.reader(lines)
            for row in rows:
                if row:
                    yield f"--strings {path}, line {number + rows.line_num}", row[column] if column < len(row) else ""
            return
        yield where, _layers_of(where, text) if text.startswith("{") else text.strip('"')


def _fields(line: str) -> list[str]:
    return next(csv.reader([line]), [])


def _layers_of(where: str, text: str) -> str:
    try:
        layers = json.loads(text).get("layers")
    except (ValueError, RecursionError):
        raise InvalidInput(f"{where}: {quoted(text)} is neither a layer string nor JSON") from None
    if not isinstance(layers, str):
        raise InvalidInput(f"{where}: has no key 'layers' with a layer string")
    return layers


def _canonical(where: str, text: str) -> str:
    try:
        return format_architecture(parse(text))
    except LayerStringError as error:
        raise InvalidInput(f"{where}: {error}") from None
