"""Layer strings: text <-> architecture.

    string = layer "-" { layer "-" }          the last "-" may be missing
    layer  = kind "=" key ":" value { "," key ":" value }
    value  = digits [ "." digits ]            plain ASCII decimals; no sign, no exponent

Keys may come in any order, each exactly once. The canonical form has them in the order of the
layer's fields, shortest decimals, and the closing "-": ``parse(format(a)) == a``. The parser never
evaluates anything, uses no recursion, and bounds what it reads, so any text at all is safe to give.
"""

from dataclasses import fields
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from search.errors import LayerStringError
from search.layers import KINDS, Architecture, Layer, format_layer, plain

LONGEST_STRING = 262_144  # characters; ten layers take some 500, the 1,000 that a space may draw up to 165,000
LONGEST_NUMBER = 24  # characters of one value


def format_architecture(architecture: Architecture) -> str:
    """The canonical layer string of an architecture, closing '-' included."""
    return "".join(format_layer(layer) + "-" for layer in architecture)


def parse(text: str) -> Architecture:
    """The architecture that a layer string describes: at least one layer.

    Raises LayerStringError with the position of the first thing that is wrong, its text, and what
    is allowed there.
    """
    if len(text) > LONGEST_STRING:
        raise LayerStringError(
            LONGEST_STRING, text[LONGEST_STRING:], f"nothing; a layer string has at most {LONGEST_STRING} characters"
        )
    layers: list[Layer] = []
    position = 0
    while position < len(text) or not layers:
        end = text.find("-", position)
        end = len(text) if end < 0 else end
        layers.append(_parse_layer(text, position, end))
        position = end + 1
    return tuple(layers)


def _parse_layer(text: str, start: int, end: int) -> Layer:
    equals = text.find("=", start, end)
    name = text[start : equals if equals >= 0 else end]
    if name not in KINDS:
        raise LayerStringError(start, name or text[start : start + 1], "a layer: " + _choices(name, KINDS))
    if equals < 0:
        raise LayerStringError(end, text[end : end + 1], f"'=' and the parameters of {name}")
    kind = KINDS[name]
    expected = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # every kind is a dataclass
    values: dict[str, Decimal | int] = {}
    position = equals + 1
    while True:
        comma = text.find(",", position, end)
        stop = end if comma < 0 else comma
        key, value = _parse_parameter(text, position, stop, name, expected, values)
        values[key] = value
        if comma < 0:
            break
        position = comma + 1
    missing = [key for key in expected if key not in values]
    if missing:
        raise LayerStringError(end, text[end : end + 1], f"',' and {missing[0]}:VALUE, which {name} needs")
    return kind(**values)


def _parse_parameter(
    text: str, start: int, end: int, kind: str, expected: dict[str, Any], given: dict[str, Decimal | int]
) -> tuple[str, Decimal | int]:
    colon = text.find(":", start, end)
    key = text[start : colon if colon >= 0 else end]
    remaining = [name for name in expected if name not in given]
    if key not in remaining:
        if not remaining:
            allowed = f"nothing more; {kind} has all its parameters"
        else:
            allowed = f"a parameter of {kind}: " + _choices(key, remaining)
        raise LayerStringError(start, key or text[start : start + 1], allowed)
    if colon < 0:
        raise LayerStringError(end, text[end : end + 1], f"':' and the value of {key}")
    return key, _parse_value(text, colon + 1, end, key, expected[key])


def _parse_value(text: str, start: int, end: int, key: str, field: Any) -> Decimal | int:
    digits = text[start:end]
    low, high, above = field.metadata["low"], field.metadata["high"], field.metadata["above"]
    what = "a whole number" if field.type is int else "a plain decimal (no exponent)"
    bounds = f"{'above' if above else 'from'} {plain(low)} {'up ' if above else ''}to {plain(high)}"
    wrong = LayerStringError(start, digits or text[start : start + 1], f"{key} as {what} {bounds}")
    whole, dot, fraction = digits.partition(".")
    if not (digits.isascii() and whole.isdigit() and len(digits) <= LONGEST_NUMBER):
        raise wrong
    if dot and (field.type is int or not fraction.isdigit()):
        raise wrong
    value = Decimal(digits)
    if not low <= value <= high or (above and value == low):
        raise wrong
    return int(value) if field.type is int else value


def _choices(given: str, allowed: Any) -> str:
    close = get_close_matches(given[:40], list(allowed), n=1)
    return ", ".join(allowed) + (f" (did you mean {close[0]}?)" if close else "")
