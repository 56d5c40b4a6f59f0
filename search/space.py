"""Search spaces: which layers may be drawn, how many, and by which rules.

A space is a preset or a TOML file (``netsieve space show`` prints the format). It validates itself
when it is made, and ``require_something_valid`` refuses a space in which no string can be built.
"""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from search.candidates import RejectionReason
from search.errors import LayerStringError, SpaceError, quoted
from search.layer_string import format_architecture, parse
from search.layers import LARGEST_SIDE, Architecture, Layer, Rejected, Shape
from search.shapes import (
    BYTES_PER_NUMBER,
    MOST_ACTIVATION_BYTES,
    MOST_MACS,
    MOST_PARAMETERS,
    Rules,
    over_budget,
    step,
)

MOST_LAYERS = 1_000  # entries of a space, and layers of a string: far beyond what trains
MOST_CLASSES = 1_000_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"


@dataclass(frozen=True)
class SearchSpace:
    """What may be drawn. Raises SpaceError when it contradicts itself."""

    name: str
    input_shape: Shape  # of one image
    classes: int
    min_layers: int
    max_layers: int
    replacement: bool  # may a layer stand twice in a string?
    channels_within_side: bool  # must a conv's input channels fit in its input's side?
    layers: tuple[Layer, ...]  # in the order that the samplers' draws refer to
    max_parameters: int | None = None
    max_macs: int | None = None  # multiply-adds per image
    max_activation_bytes: int | None = None  # per image

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SpaceError(f"name = {quoted(self.name)}: a space's name has {NAME_RULE}")
        _within("input_shape", min(self.input_shape), 1, int(LARGEST_SIDE))
        _within("input_shape", max(self.input_shape), 1, int(LARGEST_SIDE))
        _within("classes", self.classes, 1, MOST_CLASSES)
        _within("number of layers", len(self.layers), 1, MOST_LAYERS)
        _within("min_layers", self.min_layers, 1, MOST_LAYERS)
        _within("max_layers", self.max_layers, self.min_layers, MOST_LAYERS)
        for name, ceiling in CEILINGS.items():
            if getattr(self, name) is not None:
                _within(name, getattr(self, name), 1, ceiling)
        twice = [layer for layer, times in Counter(self.layers).items() if times > 1]
        if twice:
            raise SpaceError(f"layers: {format_architecture((twice[0],))} stands twice; list each layer once")
        if not self.replacement and self.max_layers > len(self.layers):
            raise SpaceError(
                f"max_layers = {self.max_layers}, but only {len(self.layers)} layers to draw from without "
                "replacement; lower it, list more layers, or set replacement = true"
            )

    @property
    def rules(self) -> Rules:
        """What the checker needs of this space."""
        return Rules(
            self.input_shape,
            self.classes,
            self.channels_within_side,
            *(getattr(self, name) or ceiling for name, ceiling in CEILINGS.items()),
        )

    def as_dict(self) -> dict[str, Any]:
        """The space as plain values, as in its TOML file: layers as canonical strings, absent budgets left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["input_shape"] = list(self.input_shape)
        values["layers"] = [format_architecture((layer,)) for layer in self.layers]
        return {name: value for name, value in values.items() if value is not None}

    def to_toml(self) -> str:
        """The space as a TOML file that ``read_space`` reads back."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.as_dict().items() if name != "layers"]
        layers = "".join(f'    "{layer}",\n' for layer in self.as_dict()["layers"])
        return "\n".join(lines) + f"\nlayers = [\n{layers}]\n"

    def digest(self) -> str:
        """SHA-256 of what the space draws and checks, in hex; the name does not count."""
        values = {name: value for name, value in self.as_dict().items() if name != "name"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


CEILINGS = {
    "max_parameters": MOST_PARAMETERS,
    "max_macs": MOST_MACS,
    "max_activation_bytes": MOST_ACTIVATION_BYTES,
}


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SpaceError(f"{name} = {value}: must be from {low} to {high}")


_CLASSIC_LAYERS = (
    *(f"conv=channel_factor:{f},kernel_size:3,stride:1,padding:0-" for f in ("2", "3", "4", "0.4", "0.6", "0.8")),
    *(f"batchnorm=eps:{eps}-" for eps in ("0.00001", "0.0001")),
    *(f"avgpool=kernel_size:{side},stride:{side},padding:0-" for side in (2, 4)),
    *(f"maxpool=kernel_size:{side},stride:{side},padding:0-" for side in (2, 4)),
    *(f"dropout=p:{p}-" for p in ("0.2", "0.4")),
)

CLASSIC = SearchSpace(
    name="classic",
    input_shape=Shape(1, 28, 28),
    classes=10,
    min_layers=2,
    max_layers=10,
    replacement=False,
    channels_within_side=True,
    layers=tuple(parse(text)[0] for text in _CLASSIC_LAYERS),
)

PRESETS = {"classic": CLASSIC}


# ------------------------------------------------------------------ reading

_TYPES: dict[str, tuple[type, str]] = {
    "name": (str, "a string"),
    "input_shape": (list, "three whole numbers [channels, height, width]"),
    "classes": (int, "a whole number"),
    "min_layers": (int, "a whole number"),
    "max_layers": (int, "a whole number"),
    "replacement": (bool, "true or false"),
    "channels_within_side": (bool, "true or false"),
    "layers": (list, "a list of layer strings"),
    "max_parameters": (int, "a whole number"),
    "max_macs": (int, "a whole number"),
    "max_activation_bytes": (int, "a whole number"),
}


def read_space(toml: str) -> SearchSpace:
    """The space that a TOML text describes.

    Raises SpaceError: not TOML, an unknown, missing or mistyped key, a malformed layer, a contradiction.
    """
    try:
        return space_from_dict(tomllib.loads(toml))
    except ValueError as error:  # also a number of thousands of digits
        raise SpaceError(f"not TOML: {error}") from None
    except RecursionError:
        raise SpaceError("nested too deep for a search space") from None


def space_from_dict(values: dict[str, Any]) -> SearchSpace:
    """The space of plain values, as ``SearchSpace.as_dict`` gives them. Raises SpaceError."""
    for key in values:
        if key not in _TYPES:
            close = get_close_matches(key, _TYPES, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise SpaceError(f"unknown key {quoted(key)}{hint}; the keys are {', '.join(_TYPES)}")
    missing = [key for key in _TYPES if key not in values and key not in CEILINGS]
    if missing:
        raise SpaceError(f"key {missing[0]} is missing: {_TYPES[missing[0]][1]}")
    for key, value in values.items():
        expected, description = _TYPES[key]
        if type(value) is not expected:
            raise SpaceError(f"{key} = {quoted(str(value))}: must be {description}")
    sides = values["input_shape"]
    if len(sides) != 3 or any(type(side) is not int for side in sides):
        raise SpaceError(f"input_shape = {quoted(str(sides))}: must be {_TYPES['input_shape'][1]}")
    layers = tuple(_read_layer(position, text) for position, text in enumerate(values["layers"]))
    return SearchSpace(**{**values, "input_shape": Shape(*sides), "layers": layers})


def _read_layer(position: int, text: object) -> Layer:
    where = f"layers, entry {position} (counted from 0)"
    if not isinstance(text, str):
        raise SpaceError(f"{where}: {quoted(str(text))} must be a string in quotes")
    try:
        layers = parse(text)
    except LayerStringError as error:
        raise SpaceError(f"{where}: {error}") from None
    if len(layers) != 1:
        raise SpaceError(f"{where}: {len(layers)} layers in one entry; give each its own")
    return layers[0]


# ------------------------------------------------------------------ is there anything to find?

MOST_PROBES = 200_000  # partial strings; about a second


def require_something_valid(space: SearchSpace) -> None:
    """Raise SpaceError, with the reasons met, if no string of the space is valid.

    Looks for a valid string of ``min_layers`` layers or more, depth first, over partial strings that
    differ in what is used, their shape and their cost. A space that defeats ``MOST_PROBES`` partial
    strings is let through unproven: the search will say what it finds.
    """
    reasons: Counter[RejectionReason] = Counter()
    example: dict[RejectionReason, str] = {}
    for probes, found in enumerate(_probe(space)):
        if isinstance(found, tuple) or probes >= MOST_PROBES:
            return
        if found is None:
            continue
        reasons[found.reason] += 1
        example.setdefault(found.reason, f"{format_architecture(found.architecture)}: {found.detail}")
    met = "; ".join(f"{reason} {count} times, as in {example[reason]}" for reason, count in reasons.most_common())
    raise SpaceError(
        f"--space {space.name}: no layer string of this space is valid ({met}); change its layers, input_shape or rules"
    )


@dataclass(frozen=True)
class _Refusal:
    """A string, or the beginning of one, that cannot become valid."""

    architecture: Architecture
    reason: RejectionReason
    detail: str


def _probe(space: SearchSpace) -> Iterator[_Refusal | Architecture | None]:
    """Every refusal met, None for a partial string passed, and an architecture once one is valid."""
    rules = space.rules
    seen = set()
    stack: list[tuple[tuple[int, ...], Shape, int, int, int]] = [((), space.input_shape, 0, 0, 0)]
    while stack:
        used, shape, parameters, macs, numbers = stack.pop()
        architecture = tuple(space.layers[i] for i in used)
        if len(used) >= space.min_layers:
            features = shape.elements
            excess = over_budget(
                parameters + (features + 1) * space.classes,
                macs + features * space.classes,
                (numbers + space.classes) * BYTES_PER_NUMBER,
                rules,
            )
            if excess is None:
                yield architecture
                return
            yield _Refusal(architecture, RejectionReason.OVER_BUDGET, excess)
        if len(used) == space.max_layers:
            continue
        for i, layer in enumerate(space.layers):
            if not space.replacement and i in used:
                continue
            longer = (*used, i)
            try:
                after = step(layer, shape, rules)
            except Rejected as rejected:
                yield _Refusal((*architecture, layer), rejected.reason, rejected.detail)
                continue
            costs = (parameters + layer.parameters(shape), macs + layer.macs(shape), numbers + after.elements)
            excess = over_budget(costs[0], costs[1], costs[2] * BYTES_PER_NUMBER, rules)
            if excess:
                yield _Refusal((*architecture, layer), RejectionReason.OVER_BUDGET, excess)
                continue
            key = (len(longer) if space.replacement else frozenset(longer), after, costs)
            if key not in seen:
                seen.add(key)
                stack.append((longer, after, *costs))
                yield None
