"""netsieve check: verdicts, their formats, and what a malformed string gets."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Cli = Callable[..., Result]

KEYS = ["layers", "valid", "reason", "layer", "detail", "shapes", "parameters", "macs"]
FAILING_LAYERS = (0, 6, 1, 0, 0, 3, None)  # of the published strings; all but the last leave no channel there
VALID = "dropout=p:0.2-conv=channel_factor:3,kernel_size:3,stride:1,padding:0-dropout=p:0.4-"
REJECTED = "conv=channel_factor:0.4,kernel_size:3,stride:1,padding:0-"
NETSIEVE = Path(sys.executable).with_name("netsieve")


def conv(factor: str) -> str:
    """A layer of the classic kind."""
    return f"conv=channel_factor:{factor},kernel_size:3,stride:1,padding:0-"


def pool(kernel_size: int, padding: int) -> str:
    """A pool that the classic space does not have."""
    return f"avgpool=kernel_size:{kernel_size},stride:1,padding:{padding}-"


# ------------------------------------------------------------------ verdicts


@pytest.mark.parametrize("number", range(7))
def test_each_published_string_gets_its_verdict(cli: Cli, published: tuple[str, ...], number: int) -> None:
    """Six of the seven published strings lose all channels at a known layer; the seventh is valid."""
    result = cli("check", published[number], "--format", "json")
    answer = json.loads(result.stdout)
    layer = FAILING_LAYERS[number]
    assert (answer["layers"], answer["valid"], answer["layer"]) == (published[number], layer is None, layer)
    assert answer["reason"] == (None if layer is None else "channels_below_one")
    assert result.exit_code == (0 if layer is None else 1)


def test_a_valid_string_is_answered_in_full(cli: Cli) -> None:
    """A valid string gives its shapes from the input on, its parameters and its multiply-adds."""
    answer = json.loads(cli("check", VALID, "--format", "json").stdout)
    assert list(answer.items()) == [
        ("layers", VALID),
        ("valid", True),
        ("reason", None),
        ("layer", None),
        ("detail", None),
        ("shapes", [[1, 28, 28], [1, 28, 28], [3, 26, 26], [3, 26, 26]]),
        ("parameters", 3 * 9 + 3 + 10 * 3 * 26 * 26 + 10),
        ("macs", 3 * 9 * 26 * 26 + 10 * 3 * 26 * 26),
    ]


def test_a_rejected_string_is_answered_in_full(cli: Cli) -> None:
    """A rejected string gives reason, layer, detail and the shapes up to that layer, but no costs."""
    answer = json.loads(cli("check", "dropout=p:0.2-" + REJECTED, "--format", "json").stdout)
    assert list(answer.items()) == [
        ("layers", "dropout=p:0.2-" + REJECTED),
        ("valid", False),
        ("reason", "channels_below_one"),
        ("layer", 1),
        ("detail", "1 input channels times 0.4 leaves no channel"),
        ("shapes", [[1, 28, 28], [1, 28, 28]]),
        ("parameters", None),
        ("macs", None),
    ]


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param("dropout=p:0.2-" * 12, id="more layers than the space draws, and the same one again"),
        pytest.param("dropout=p:0.2-", id="fewer layers than the space draws"),
        pytest.param(conv("1.5").replace("padding:0", "padding:2"), id="a layer that the space does not list"),
        pytest.param("maxpool=kernel_size:3,stride:2,padding:1-", id="a padded pool"),
    ],
)
def test_lengths_lists_and_repetition_are_ignored(cli: Cli, layers: str) -> None:
    """Any layers of the five kinds can be checked, as often and as many as one likes."""
    result = cli("check", layers, "--format", "json")
    assert (result.exit_code, json.loads(result.stdout)["layers"]) == (0, layers)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("dropout=p:0.2", "dropout=p:0.2-"),
        ("dropout=p:0.20-", "dropout=p:0.2-"),
        ("conv=padding:0,stride:1,kernel_size:3,channel_factor:2.0", conv("2")),
    ],
)
def test_the_answer_has_the_canonical_form(cli: Cli, given: str, canonical: str) -> None:
    """Key order, trailing zeros and the last '-' do not matter; the answer shows the canonical string."""
    assert json.loads(cli("check", given, "--format", "json").stdout)["layers"] == canonical


# ------------------------------------------------------------------ input shape and rules


def test_input_replaces_the_input_shape(cli: Cli) -> None:
    """--input changes the shape that the trace begins with, and with it the verdict."""
    answer = json.loads(cli("check", conv("0.4"), "--input", "3x8x9", "--format", "json").stdout)
    assert (answer["valid"], answer["shapes"]) == (True, [[3, 8, 9], [1, 6, 7]])
    same = cli("check", VALID, "--input", "1x28x28", "--format", "json")
    assert same.stdout == cli("check", VALID, "--format", "json").stdout


@pytest.mark.parametrize(
    "shape", ["", "28x28", "0x28x28", "1x28x28x1", "-1x2x3", "1X2X3", "1x28x20000", "\u0661x2x3", "1x2x3\n"]
)
def test_a_bad_input_shape_is_refused(cli: Cli, shape: str) -> None:
    """What is no shape of three sides within bounds is refused with an example."""
    result = cli("check", VALID, "--input", shape)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'--input'" in result.stderr
    assert "such as 1x28x28" in result.stderr


def test_space_gives_the_rules(cli: Cli, place: Path) -> None:
    """A space's rules and budgets apply to what is checked: a preset's, or a file's."""
    toml = cli("space", "show", "--format", "toml").stdout
    Path("small.toml").write_text(toml + "max_parameters = 20319\n", encoding="utf-8")
    Path("free.toml").write_text(toml.replace("side = true", "side = false"), encoding="utf-8")
    many = conv("4") * 3  # 64 channels in a side of 22, if nothing forbids it

    def verdict(layers: str, *options: str) -> tuple[bool, str | None, int | None]:
        answer = json.loads(cli("check", layers, *options, "--format", "json").stdout)
        return answer["valid"], answer["reason"], answer["layer"]

    assert verdict(VALID, "--space", "classic") == (True, None, None)
    assert verdict(VALID, "--space", "small.toml") == (False, "over_budget", None)
    assert verdict(many + conv("2")) == (False, "channels_exceed_side", 3)
    assert verdict(many + conv("2"), "--space", "free.toml") == (True, None, None)


# ------------------------------------------------------------------ several strings, and formats


def test_several_strings_from_standard_input(cli: Cli, published: tuple[str, ...]) -> None:
    """STRING - reads a string a line; jsonl answers a line for each, in order."""
    result = cli("check", "-", "--format", "jsonl", stdin="\n".join(published) + "\n")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["layers"] for answer in answers] == list(published)
    assert [answer["layer"] for answer in answers] == list(FAILING_LAYERS)
    assert all(list(answer) == KEYS for answer in answers)
    assert (result.exit_code, result.stderr) == (1, "")


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_line_ends_of_standard_input(cli: Cli, end: str) -> None:
    """Windows line ends, and a last line without one, are read like any other."""
    result = cli("check", "-", "--format", "jsonl", stdin=VALID + "\r\n" + VALID + end)
    assert [json.loads(line)["layers"] for line in result.stdout.splitlines()] == [VALID, VALID]


def test_json_is_an_object_for_one_and_a_list_for_several(cli: Cli) -> None:
    """One STRING is answered with an object, several or - with a list of the same objects."""
    one = json.loads(cli("check", VALID, "--format", "json").stdout)
    assert json.loads(cli("check", VALID, VALID, "--format", "json").stdout) == [one, one]
    assert json.loads(cli("check", "-", "--format", "json", stdin=VALID).stdout) == [one]
    assert json.loads(cli("check", "-", "--format", "json", stdin="").stdout) == []
    assert json.loads(cli("check", VALID, "-", "--format", "json", stdin=VALID).stdout) == [one, one]


def test_csv_has_the_same_keys(cli: Cli) -> None:
    """CSV has a header of the keys, a row a string, nested values as JSON, and nothing for null."""
    result = cli("check", VALID, REJECTED, "--format", "csv")
    header, valid, rejected = csv.reader(io.StringIO(result.stdout))
    assert header == KEYS
    assert dict(zip(header, valid, strict=True))["shapes"] == "[[1, 28, 28], [1, 28, 28], [3, 26, 26], [3, 26, 26]]"
    assert dict(zip(header, rejected, strict=True))["parameters"] == ""


def test_table_shows_the_trace(cli: Cli) -> None:
    """The table for people says the verdict first, then a layer a line with the shape after it."""
    lines = cli("check", VALID + REJECTED + REJECTED).stdout.splitlines()
    assert lines[0].startswith("rejected: channels_below_one at layer 4 (counted from 0): 1 input channels times 0.4")
    assert [line.split()[-1] for line in lines[2:]] == ["1x28x28", "1x28x28", "3x26x26", "3x26x26", "1x24x24", "-"]
    assert cli("check", VALID).stdout.startswith("valid: 20,320 parameters, 38,532 multiply-adds per image\n")


@pytest.mark.parametrize(
    ("strings", "code"), [((VALID,), 0), ((VALID, VALID), 0), ((VALID, REJECTED), 1), ((REJECTED, "nonsense"), 2)]
)
def test_exit_code(cli: Cli, strings: tuple[str, ...], code: int) -> None:
    """0 if all are valid, 1 if some are rejected, 2 if one is malformed."""
    assert cli("check", *strings, "--format", "jsonl").exit_code == code


# ------------------------------------------------------------------ --explain

EXPLAINED = [*KEYS, "explanation", "edits"]


def test_explain_adds_two_keys_at_the_end(cli: Cli) -> None:
    """--explain leaves the other keys as they are, and adds what happened and the edits with their results."""
    plain = json.loads(cli("check", REJECTED, "--format", "json").stdout)
    result = cli("check", REJECTED, "--explain", "--format", "json")
    answer = json.loads(result.stdout)
    assert list(answer) == EXPLAINED
    assert {key: answer[key] for key in KEYS} == plain
    assert "floor(1 * 0.4) = 0" in answer["explanation"]
    assert answer["edits"] == [
        {"edit": "layer 0: channel_factor 0.4 -> 1", "layers": conv("1")},
        {"edit": "layer 0: channel_factor 0.4 -> 2", "layers": conv("2")},
    ]
    assert result.exit_code == 1


def test_explain_has_nothing_to_say_of_a_valid_string(cli: Cli) -> None:
    """For programs explanation is null and edits are empty; people see what they see without it."""
    answer = json.loads(cli("check", VALID, "--explain", "--format", "json").stdout)
    assert (list(answer), answer["explanation"], answer["edits"]) == (EXPLAINED, None, [])
    assert cli("check", VALID, "--explain").stdout == cli("check", VALID).stdout
    assert cli("check", VALID, VALID, "--explain").stdout == cli("check", VALID, VALID).stdout


@pytest.mark.parametrize(
    ("layers", "shape", "told"),
    [
        (
            conv("4") * 3,
            "3x28x11",
            "but 12 is more than 9. That is a rule of the space (channels_within_side), not of P",
        ),
        (
            REJECTED,
            "1x28x28",
            "gets 1x28x28 (channels x height x width). A conv gives floor(input channels * channel_f",
        ),
        (REJECTED, "1x28x28", "channels, and a network needs at least 1: floor(1 * 0.4) = 0."),
        (pool(3, 2), "1x28x28", "but 2 is more than floor(3 / 2) = 1. PyTorch refuses it too."),
        (pool(5, 1), "1x9x2", "floor((side + 2 * padding - kernel_size) / stride) + 1, and the kernel must fit"),
        (pool(5, 1), "1x9x2", "but 5 is more than 2 + 2 * 1 = 4. PyTorch refuses it too."),
        (
            conv("1000000000"),
            "1x28x28",
            "No layer is at fault, but the network as a whole, its classifier included, is ",
        ),
        (conv("1000000000"), "1x28x28", "over budget: 6,770,000,000,010 parameters, the limit is 1,000,000,000."),
    ],
)
def test_explain_says_what_happened(cli: Cli, layers: str, shape: str, told: str) -> None:
    """Each reason is told in plain words, with the layer's input and the rule's numbers."""
    answer = json.loads(cli("check", layers, "--explain", "--input", shape, "--format", "json").stdout)
    assert told in answer["explanation"]
    assert answer["edits"]
    for edit in answer["edits"]:
        assert cli("check", edit["layers"], "--input", shape).exit_code == 0


def test_explain_for_people(cli: Cli) -> None:
    """After the layers, a paragraph of what happened, and an edit a line that ends with the string to copy."""
    lines = cli("check", "dropout=p:0.2-" + REJECTED, "--explain").stdout.splitlines()
    told = lines[lines.index("") + 1 :]
    assert lines[: lines.index("")] == cli("check", "dropout=p:0.2-" + REJECTED).stdout.splitlines()
    assert told[0].startswith("Layer 1, conv=channel_factor:0.4,kernel_size:3,stride:1,padding:0, gets 1x28x28")
    assert told[2] == "Edits that make it valid, the smallest first, each with its result:"
    assert [line.split("  ")[1] for line in told[3:]] == [
        "layer 1: channel_factor 0.4 -> 1",
        "layer 1: channel_factor 0.4 -> 2",
        "drop layer 1 (conv=channel_factor:0.4,kernel_size:3,stride:1,padding:0)",
    ]
    assert [line.split()[-1] for line in told[3:]] == [
        "dropout=p:0.2-" + conv("1"),
        "dropout=p:0.2-" + conv("2"),
        "dropout=p:0.2-",
    ]


def test_explain_says_when_no_edit_was_found(cli: Cli) -> None:
    """Where neither one edit nor two help, people are told, and programs get an empty list."""
    hopeless = "maxpool=kernel_size:4,stride:4,padding:0-" * 4
    options = ("--explain", "--input", "1x1x1")
    assert cli("check", hopeless, *options).stdout.endswith(
        "No edit of one or two layers was found that makes it valid.\n"
    )
    assert json.loads(cli("check", hopeless, *options, "--format", "json").stdout)["edits"] == []


def test_explain_many_lines(cli: Cli, published: tuple[str, ...]) -> None:
    """With - and --explain there is an answer for each line, in jsonl and csv alike."""
    lines = "\n".join(published * 100)
    answers = [
        json.loads(line)
        for line in cli("check", "-", "--explain", "--format", "jsonl", stdin=lines).stdout.splitlines()
    ]
    assert [answer["layers"] for answer in answers] == list(published * 100)
    assert [answer["explanation"] is None for answer in answers] == [answer["valid"] for answer in answers]
    assert [bool(answer["edits"]) for answer in answers[:7]] == [True, True, True, False, False, True, False]
    header, *rows = csv.reader(io.StringIO(cli("check", "-", "--explain", "--format", "csv", stdin=lines).stdout))
    assert header == EXPLAINED
    assert [json.loads(row[-1]) for row in rows] == [answer["edits"] for answer in answers]


# ------------------------------------------------------------------ malformed strings

MALFORMED = {
    "": "the end of the string",
    "--": "at position 0 (counted from 0) stands '-'",
    " ": "' '",
    "drop=p:0.2-": "did you mean dropout?",
    "Dropout=p:0.2-": "did you mean dropout?",
    "dropout": "'=' and the parameters of dropout",
    "dropout=": "a parameter of dropout: p",
    "dropout=q:0.2-": "a parameter of dropout: p",
    "dropout=p:0.2,p:0.2-": "nothing more; dropout has all its parameters",
    "dropout=p:1e-05-": "'1e'",
    "dropout=p:2-": "from 0",
    "dropout=p:0.2--": "at position 14",
    "dropout=p:0.2- ": "at position 14",
    "conv(3)": "a layer: conv",
    conv("2").replace("stride:1", "stride:0"): "stride as a whole number from 1",
    conv("2").replace("kernel_size:3", "kernel_size:3.5"): "kernel_size as a whole number",
    conv("9" * 5000): "channel_factor as a plain decimal",
    conv("\u0663"): r"'\u0663'",
    "drop\u043eut=p:0.2-": r"'drop\u043eut'",
    "dropout\u200b=p:0.2-": r"'dropout\u200b'",
    "__import__('os').system('id')-": "a layer: conv",
    "{0.__class__}-": "a layer: conv",
    "'; DROP TABLE search;--": "a layer: conv",
    "dropout=p:0.2-" * 20_000: "at most 262144 characters",
}


@pytest.mark.parametrize(("layers", "told"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_a_malformed_string_is_told_where_and_what_is_allowed(cli: Cli, layers: str, told: str) -> None:
    """One line names the position, what stands there, and what may stand there; exit code 2."""
    result = cli("check", "--", layers)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: malformed layer string: at position ")
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 500


def test_a_malformed_string_among_several_is_numbered(cli: Cli) -> None:
    """Of several strings, the malformed one is named by its number."""
    assert "Error: STRING 2: malformed" in cli("check", VALID, "x", VALID).stderr


def test_a_malformed_line_is_named_and_ends_the_command(cli: Cli) -> None:
    """The lines before a malformed one are answered; it is named by its number; none after it is read."""
    result = cli("check", "-", "--format", "jsonl", stdin=f"{VALID}\n{REJECTED}\nnonsense\n{VALID}\n")
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.startswith("Error: standard input, line 3: malformed layer string: at position 0")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        pytest.param(b"\xff\xfe", r"'\udcff\udcfe'", id="invalid UTF-8"),
        pytest.param(b"\x1b[31mred\x1b]0;title\x07", r"'\x1b[31mred\x1b]0;title\x07'", id="ANSI escapes"),
        pytest.param(b"drop\x00out=p:0.2-", r"'drop\x00out'", id="NUL"),
        pytest.param(b"a\rb", r"'a\rb'", id="carriage return"),
        pytest.param(VALID.encode("utf-16"), r"\udcff\udcfed\x00r\x00", id="UTF-16"),
        pytest.param(b"\xef\xbb\xbfdropout=p:0.2-", r"'\ufeffdropout'", id="byte order mark"),
        pytest.param(b"", "the end of the string", id="an empty line"),
    ],
)
def test_odd_bytes_are_escaped(cli: Cli, line: bytes, shown: str) -> None:
    """Whatever stands on a line of standard input, the error shows it in plain ASCII."""
    result = cli("check", "-", stdin=line + b"\n")
    assert result.exit_code == 2
    assert "Error: standard input, line 1: malformed" in result.stderr
    assert shown in result.stderr
    assert result.stderr.rstrip("\n").isascii()
    assert result.stderr.rstrip("\n").isprintable()


def test_a_string_that_looks_like_an_option(cli: Cli) -> None:
    """An argument that begins with '-' is an option; after -- it is a malformed string."""
    assert "No such option '--dropout'" in cli("check", "--dropout=p:0.2-").stderr
    assert "at position 0 (counted from 0) stands '-'" in cli("check", "--", "--dropout=p:0.2-").stderr


# ------------------------------------------------------------------ as a process


def test_a_reader_that_has_enough_ends_the_command_quietly() -> None:
    """``netsieve check - | head -1`` prints a line and no complaint, in every format that streams."""
    command = f"yes '{VALID}' | head -20000 | {NETSIEVE} check - --format jsonl | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["layers"] == VALID
    assert done.stderr == ""


def test_a_closed_stdout_is_no_traceback() -> None:
    """With stdout closed altogether the command still says nothing on stderr but perhaps an error line."""
    done = subprocess.run(
        ["bash", "-c", f"{NETSIEVE} check '{VALID}' >&-"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_bytes_of_an_argument_that_are_no_text() -> None:
    """An argument of arbitrary bytes, under LANG=C, is a malformed string like any other."""
    environment = {**os.environ, "LANG": "C", "LC_ALL": "C"}
    done = subprocess.run(
        [NETSIEVE, "check", b"\xff\xfe-"], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert r"stands '\udcff\udcfe'" in done.stderr


PROBE = """
import sys
from search.cli import main
try:
    main(sys.argv[1].split())
except SystemExit as end:
    assert end.code == 0, end.code
print(sorted({"torch", "ray", "sqlalchemy", "alembic", "numpy", "sklearn"} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "imported"),
    [
        ("--help", "[]"),
        ("run --help", "[]"),
        ("check dropout=p:0.2-", "[]"),
        ("status first --db sqlite:///DB", "['sqlalchemy']"),
        ("top first --db sqlite:///DB", "['sqlalchemy']"),
    ],
)
def test_commands_import_only_what_they_need(searched: Path, command: str, imported: str) -> None:
    """--help and check import neither torch nor ray, sqlalchemy or numpy; questions only sqlalchemy."""
    command = command.replace("DB", str(searched))
    done = subprocess.run(
        [sys.executable, "-c", PROBE, command], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == imported
