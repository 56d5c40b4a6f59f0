"""Commands about layer strings and spaces: check, sample, space show. They need no database."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from search.candidates import RejectionReason
from search.cli.files import standard_output
from search.cli.output import cell, columns, format_option, layer_table, print_many, print_one, tell
from search.cli.parameters import (
    COUNT,
    INDEX,
    NO_LENGTHS,
    SEED,
    InputShape,
    Space,
    lengths_option,
    sampler_option,
    space_option,
)
from search.cli.writers import write_csv
from search.edits import MOST_EDITS, smallest_edits
from search.errors import InvalidInput, LayerStringError, Uncountable
from search.explanation import explain as explain_verdict
from search.layer_string import format_architecture, parse
from search.layers import Architecture, Conv, Shape
from search.settings import LARGEST_INTEGER
from search.shapes import Rules, Verdict
from search.shapes import check as check_shapes
from search.space import SearchSpace

if TYPE_CHECKING:
    from search.census import LengthCount

DRAWS_AT_ONCE = 1_000


# ------------------------------------------------------------------ check


@click.command()
@click.argument("strings", nargs=-1, required=True, metavar="STRING...")
@space_option()
@click.option("--input", "input_shape", type=InputShape(), help="The input's shape instead of the space's: 1x28x28.")
@click.option("--explain", is_flag=True, help="If rejected: what happened, and the smallest edits that mend it.")
@format_option()
@click.pass_context
def check(
    ctx: click.Context,
    strings: tuple[str, ...],
    space: SearchSpace,
    input_shape: Shape | None,
    explain: bool,
    style: str,
) -> None:
    """Say whether layer STRINGs can be built, and if not, why.

    Any layers of the five kinds, in the space's list or not; its input shape and rules are applied.
    STRING - reads one string a line from standard input. Exit code 0: all valid; 1: some rejected;
    2: malformed.
    """
    rules = space.rules if input_shape is None else replace(space.rules, input_shape=input_shape)
    rejected = 0

    def answers() -> Iterator[dict[str, Any]]:
        nonlocal rejected
        for where, text in _texts(strings):
            try:
                architecture = parse(text)
            except LayerStringError as error:
                raise InvalidInput(f"{where}{error}") from None
            verdict = check_shapes(architecture, rules)
            rejected += not verdict.valid
            answer = _answer(architecture, verdict)
            yield answer | _explanation(architecture, verdict, rules, space) if explain else answer

    if len(strings) == 1 and strings[0] != "-":
        answer = next(answers())
        print_one(style, answer, lambda: "\n".join(_for_people(answer)))
    else:
        print_many(style, answers(), lambda found: (line for answer in found for line in [*_for_people(answer), ""]))
    ctx.exit(1 if rejected else 0)


def _texts(strings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each text with where it stands, if there are several."""
    for number, string in enumerate(strings, 1):
        if string != "-":
            yield f"STRING {number}: " if len(strings) > 1 else "", string
            continue
        if sys.stdin is None:
            raise InvalidInput("STRING -: stdin is closed; give the strings on it, or as arguments")
        lines = sys.stdin.buffer
        for line_number, line in enumerate(lines, 1):
            yield f"standard input, line {line_number}: ", line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")


def _answer(architecture: Architecture, verdict: Verdict) -> dict[str, Any]:
    return {
        "layers": format_architecture(architecture),
        "valid": verdict.valid,
        "reason": verdict.reason,
        "layer": verdict.layer,
        "detail": verdict.detail,
        "shapes": [list(shape) for shape in verdict.shapes],
        "parameters": verdict.parameters,
        "macs": verdict.macs,
    }


def _explanation(architecture: Architecture, verdict: Verdict, rules: Rules, space: SearchSpace) -> dict[str, Any]:
    """What --explain adds to an answer; its factors of the space are those that a search could draw."""
    factors = tuple({layer.channel_factor for layer in space.layers if isinstance(layer, Conv)})
    return {
        "explanation": explain_verdict(architecture, verdict),
        "edits": [
            {"edit": edit.description, "layers": format_architecture(edit.architecture)}
            for edit in smallest_edits(architecture, rules, factors)
        ],
    }


def _for_people(answer: dict[str, Any]) -> Iterator[str]:
    if answer["valid"]:
        yield f"valid: {cell(answer['parameters'])} parameters, {cell(answer['macs'])} multiply-adds per image"
    else:
        at = "" if answer["layer"] is None else f" at layer {answer['layer']} (counted from 0)"
        yield f"rejected: {answer['reason']}{at}: {answer['detail']}"
    yield from layer_table(answer["layers"], answer["shapes"])
    if answer.get("explanation"):
        yield from ("", answer["explanation"], "", *_edits(answer["edits"]))


def _edits(edits: list[dict[str, str]]) -> Iterator[str]:
    """An edit a line, never cut: the resulting strings are there to be copied."""
    if not edits:
        yield "No edit of one or two layers was found that makes it valid."
        return
    which = f"The {MOST_EDITS} smallest edits" if len(edits) == MOST_EDITS else "Edits"
    yield f"{which} that make it valid, the smallest first, each with its result:"
    width = max(len(edit["edit"]) for edit in edits)
    yield from (f"  {edit['edit']:<{width}}  {edit['layers']}" for edit in edits)


# ------------------------------------------------------------------ sample


@click.command()
@click.option("-n", "count", type=COUNT, default=10, show_default=True, help="How many.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--start", type=INDEX, default=0, show_default=True, help="The first index.")
@sampler_option()
@lengths_option()
@space_option()
@format_option()
def sample(
    count: int, seed: int, start: int, sampler: str, lengths: tuple[int, int] | None, space: SearchSpace, style: str
) -> None:
    """Draw candidates as a search would, without training: index, layer string, verdict."""
    from search.samplers import CensusSampler, drawing
    from search.sieve import judge_with

    if start + count > LARGEST_INTEGER:
        raise click.UsageError(f"--start {start} and -n {count}: the last index must be below 2^63")
    if lengths is not None and sampler != CensusSampler.name:
        raise click.UsageError(NO_LENGTHS)
    draws = drawing(sampler, space, seed, lengths)
    if isinstance(draws, CensusSampler) and start + count > draws.size:
        raise click.UsageError(
            f"--start {start} and -n {count}: the census has {draws.size:,} architectures; lower -n or --start"
        )
    judge = judge_with(draws, space.rules)

    def drawn() -> Iterator[dict[str, Any]]:
        for first in range(start, start + count, DRAWS_AT_ONCE):
            for found in judge(first, min(first + DRAWS_AT_ONCE, start + count)):
                verdict = found.verdict
                yield {
                    "index": found.index,
                    "layers": found.layers,
                    "valid": verdict.valid,
                    "reason": verdict.reason,
                    "layer": verdict.layer,
                }

    def table(records: Iterator[dict[str, Any]]) -> Iterator[str]:
        yield f"{'index':>8}  {'verdict':<32}  layers"
        for r in records:
            verdict = "valid" if r["valid"] else f"{r['reason']}" + ("" if r["layer"] is None else f" @{r['layer']}")
            yield f"{r['index']:>8}  {verdict:<32}  {r['layers']}"

    print_many(style, drawn(), table)


# ------------------------------------------------------------------ space


@click.group()
def space() -> None:
    """Describe search spaces."""


@space.command("show")
@click.argument("space", type=Space(), default="classic", metavar="[SPACE]")
@format_option("toml")
def show_space(space: SearchSpace, style: str) -> None:
    """Describe a SPACE, a preset or a TOML file.

    --format toml prints the file to start one's own from: netsieve space show --format toml > my.toml
    """
    if style == "toml":
        click.echo(space.to_toml(), nl=False)
        return
    values = space.as_dict()

    def table() -> str:
        plain = [(name, value) for name, value in values.items() if name not in {"layers", "input_shape"}]
        shape = ("input_shape", str(space.input_shape))
        layers = [(str(i), layer) for i, layer in enumerate(values["layers"])]
        return "\n".join(
            [*columns(("key", "value"), [plain[0], shape, *plain[1:]]), "", *columns(("", "layer"), layers)]
        )

    print_one(style, values, table)


@space.command("count")
@click.argument("space", type=Space(), default="classic", metavar="[SPACE]")
@lengths_option("Only strings of so many layers: 2-6.")
@format_option()
def count_space(space: SearchSpace, lengths: tuple[int, int] | None, style: str) -> None:
    """Count the layer strings of a SPACE, a preset or a TOML file, exactly: by length, and by reason of rejection.

    Of a space that is too large, the longest strings are not counted: how many can be drawn is known, how many are
    valid is not.
    """
    from search.census import drawable, of_lengths

    chosen = space if lengths is None else of_lengths(space, *lengths)
    try:
        counts = _counts(chosen)
    except Uncountable as error:
        is_shorter = error.layers >= space.min_layers
        instead = "take shorter --lengths" if is_shorter else "netsieve sample draws some of it"
        raise Uncountable(error.reason, error.layers, instead) from None
    reasons = [reason for reason in RejectionReason if any(reason in count.rejected for count in counts)]
    longer = range(counts[-1].layers + 1, chosen.max_layers + 1)
    by_length: list[dict[str, Any]] = [
        {"layers": c.layers, "drawable": c.drawable, "valid": c.valid, "rejected": dict(c.rejected)} for c in counts
    ]
    by_length += [{"layers": n, "drawable": drawable(chosen, n), "valid": None, "rejected": None} for n in longer]
    rows: list[tuple[int | None, ...]] = [
        (c.layers, c.drawable, c.valid, *(c.rejected.get(reason, 0) for reason in reasons)) for c in counts
    ]
    rows += [(n, drawable(chosen, n), *[None] * (1 + len(reasons))) for n in longer]
    sums = [None if None in column else sum(column) for column in list(zip(*rows, strict=True))[1:]]
    record = {
        "drawable": sums[0],
        "valid": sums[1],
        "rejected": None if longer else dict(zip(reasons, sums[2:], strict=True)),
        "by_length": by_length,
    }
    titles = ("layers", "drawable", "valid", *reasons)
    if style == "csv":
        write_csv(standard_output(), titles, rows)
    else:
        print_one(style, record, lambda: "\n".join(columns(titles, [*rows, ("all", *sums)])))


def _counts(space: SearchSpace) -> "Sequence[LengthCount]":
    """The counts of the lengths from min_layers on that can be counted. Says so if there are more.

    Raises SpaceError if there are none.
    """
    from search.census import census, census_of_shorter

    try:
        return census(space).by_length
    except Uncountable as error:
        found = census_of_shorter(space, error).by_length
        tell(f"strings of more than {found[-1].layers} layers are not counted: {error.reason}")
        return found
