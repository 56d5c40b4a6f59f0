"""Option types and readers that several commands share; bad input is named with its option."""

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from search.candidates import FailureReason
from search.cli.output import Command
from search.errors import SettingsError, SpaceError, quoted
from search.layers import LARGEST_SIDE, Shape
from search.settings import LARGEST_INTEGER, require_name
from search.space import PRESETS, SearchSpace, read_space

LARGEST_FILE = 1_000_000  # bytes of a space or configuration file

SEED = click.IntRange(0, LARGEST_INTEGER)
INDEX = click.IntRange(0, LARGEST_INTEGER)
COUNT = click.IntRange(1, LARGEST_INTEGER)
CONFIG = "netsieve.config"  # in a context's meta: the file whose values are its defaults
NO_LENGTHS = "--lengths belongs to --sampler census; otherwise a space's own min_layers and max_layers say it"


class Duration(click.ParamType[float]):
    """Seconds, or a number with a unit: 90, 90s, 10m, 2h."""

    name = "duration"
    _UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """To seconds, above 0 and up to a year."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", str(value))
        seconds = float(match[1]) * self._UNITS[match[2]] if match else 0
        if not 0 < seconds <= 366 * 86400:
            self.fail(
                f"{quoted(str(value))} is no duration above 0 and up to a year; write 90, 90s, 10m or 2h.", param, ctx
            )
        return seconds


class Reasons(click.ParamType[frozenset[FailureReason]]):
    """Reasons of failures, with commas between them."""

    name = "REASON,..."
    separator = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[FailureReason]:
        """To a set of reasons."""
        if isinstance(value, frozenset):
            return value
        known = {reason.value: reason for reason in FailureReason}
        words = [word.strip() for word in str(value).split(",")]
        for word in words:
            if word not in known:
                self.fail(f"{quoted(word)} is no reason of a failure; there are {', '.join(known)}.", param, ctx)
        return frozenset(known[word] for word in words)


class AllOrCount(click.ParamType[int]):
    """A number of images, or all of them."""

    name = "N|all"
    ALL = -1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """To a number; ALL stands for all."""
        if value in ("all", self.ALL):
            return self.ALL
        if not re.fullmatch(r"[0-9]{1,18}", str(value), re.ASCII):
            self.fail(f"{quoted(str(value))} is neither a whole number nor 'all'.", param, ctx)
        return int(value)


class Lengths(click.ParamType[tuple[int, int]]):
    """A number of layers, or a range of them."""

    name = "LOW-HIGH"
    separator = "-"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """To the fewest and the most layers."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", str(value), re.ASCII)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            self.fail(f"{quoted(str(value))} is no range of lengths; write 2-6, or 4 for one length.", param, ctx)
        return low, high


class InputShape(click.ParamType[Shape]):
    """Channels x height x width."""

    name = "CxHxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shape:
        """To a shape."""
        if isinstance(value, Shape):
            return value
        match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})x([0-9]{1,5})", str(value), re.ASCII)
        sides = [int(side) for side in match.groups()] if match else [0]
        if min(sides) < 1 or max(sides) > int(LARGEST_SIDE):
            self.fail(
                f"{quoted(str(value))} is no shape; write channels x height x width, such as 1x28x28.", param, ctx
            )
        return Shape(*sides)


class Space(click.ParamType[SearchSpace]):
    """A preset's name, or a TOML file."""

    name = "preset|FILE.toml"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SearchSpace:
        """To a search space."""
        if isinstance(value, SearchSpace):
            return value
        if value in PRESETS:
            return PRESETS[value]
        if not str(value).endswith(".toml") and not _is_there(value):
            self.fail(f"{quoted(value)} is neither a preset ({', '.join(PRESETS)}) nor a file.", param, ctx)
        try:
            return read_space(read_text(Path(value)))
        except SpaceError as error:
            self.fail(f"{value}: {error}", param, ctx)


def _is_there(value: str) -> bool:
    try:
        return value != "" and Path(value).exists()
    except OSError:  # too long for a name
        return False


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file. Raises SpaceError."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise SpaceError(f"larger than {LARGEST_FILE:,} bytes; is it the right file?")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise SpaceError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpaceError("is not UTF-8 text") from None


def read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Take the options of a TOML file for this command; those that are typed win."""
    if path is None:
        return
    try:
        values = tomllib.loads(read_text(path))
    except (SpaceError, ValueError) as error:  # not TOML, or a number of thousands of digits
        raise SettingsError(f"--config {path}: {error}") from None
    except RecursionError:
        raise SettingsError(f"--config {path}: nested too deep for a list of options") from None
    known = {name.lstrip("-"): p for p in ctx.command.params for name in p.opts if isinstance(p, click.Option)}
    taken = {}
    for key, value in values.items():
        option = known.get(key.replace("_", "-"))
        if option is None or option.name in {"config", "help"}:
            keys = ", ".join(sorted(known.keys() - {"config"}))
            raise SettingsError(f"--config {path}: unknown key {quoted(key)}; the keys are {keys}")
        if option.name in taken:
            raise SettingsError(f"--config {path}: {key} stands twice, with '-' and with '_'; keep one")
        try:
            taken[option.name] = _as_typed(option, value)
        except SettingsError as error:
            shown = quoted(str(value)) if isinstance(value, str) else quoted(str(value))[1:-1]
            raise SettingsError(f"--config {path}: {key} = {shown}: {error}") from None
    ctx.meta[CONFIG] = path
    ctx.default_map = {**(ctx.default_map or {}), **taken}


def _as_typed(option: click.Option, value: Any) -> str | bool:
    """A value of TOML as the option takes it, to be converted: a flag's, a text, or a list as a text.

    Raises SettingsError.
    """
    if option.is_flag:
        if not isinstance(value, bool):
            raise SettingsError("must be true or false")
        return value
    separator = getattr(option.type, "separator", None)
    values = value if separator is not None and isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in values):
        raise SettingsError(f"must be a number or a string{'' if separator is None else ', or a list of them'}")
    if any("\0" in one for one in values if isinstance(one, str)):
        raise SettingsError("must not hold the character of number 0")
    return (separator or "").join(map(str, values))


def name_argument() -> Callable[[Command], Command]:
    """The NAME of a search, looked at before a database is."""
    return click.argument("name", callback=lambda _ctx, _param, value: require_name(value))


def database_option() -> Callable[[Command], Command]:
    """The --db option."""
    return click.option(
        "--db", "url", envvar="NETSIEVE_DB", default="sqlite:///netsieve.db", show_default=True, metavar="URL",
        help="The database; also NETSIEVE_DB.",
    )  # fmt: skip


def data_dir_option() -> Callable[[Command], Command]:
    """The --data-dir option."""
    return click.option(
        "--data-dir", type=click.Path(path_type=Path, file_okay=False), envvar="NETSIEVE_DATA_DIR",
        help="Folder of the dataset's files, downloaded there if missing; also NETSIEVE_DATA_DIR.  "
        "[default: the user's cache folder]",
    )  # fmt: skip


def space_option() -> Callable[[Command], Command]:
    """The --space option."""
    return click.option("--space", type=Space(), default="classic", show_default=True, help="The search space.")


def sampler_option() -> Callable[[Command], Command]:
    """The --sampler option."""
    return click.option(
        "--sampler", type=click.Choice(["rejection", "census"]), default="rejection", show_default=True,
        help="rejection: draws of a uniform length, invalid ones included. census: valid strings only, each once.",
    )  # fmt: skip


def lengths_option(
    explanation: str = "With --sampler census: only strings of so many layers: 2-6.",
) -> Callable[[Command], Command]:
    """The --lengths option."""
    return click.option("--lengths", type=Lengths(), help=explanation)


def default_data_dir() -> Path:
    """Where datasets are downloaded to."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netsieve"
