"""Layer strings: what they mean, and what is said of those that mean nothing."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import LayerStringError
from search.layer_string import LONGEST_NUMBER, LONGEST_STRING, format_architecture, parse
from search.layers import Architecture, AvgPool, BatchNorm, Conv, Dropout, MaxPool
from search.space import CLASSIC, MOST_LAYERS

sides = st.integers(1, 10_000)
paddings = st.integers(0, 10_000)
above_zero = st.decimals("0.000000001", "1000", places=9)
layers = st.one_of(
    st.builds(Conv, above_zero, sides, sides, paddings),
    st.builds(BatchNorm, above_zero),
    st.builds(AvgPool, sides, sides, paddings),
    st.builds(MaxPool, sides, sides, paddings),
    st.builds(Dropout, st.decimals(0, 1, places=6)),
)
architectures = st.lists(layers, min_size=1, max_size=12).map(tuple)


@given(architectures)
def test_formatting_and_parsing_are_inverse(architecture: Architecture) -> None:
    """Any architecture comes back from its text, and its text is canonical."""
    text = format_architecture(architecture)
    assert parse(text) == architecture
    assert format_architecture(parse(text)) == text
    assert not re.search(r"[0-9]e", text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("dropout=p:0.2", "dropout=p:0.2-"),
        ("dropout=p:00.20-", "dropout=p:0.2-"),
        ("dropout=p:1.0-", "dropout=p:1-"),
        ("batchnorm=eps:0.00001-", "batchnorm=eps:0.00001-"),
        ("maxpool=padding:0,stride:02,kernel_size:2", "maxpool=kernel_size:2,stride:2,padding:0-"),
        (
            "conv=stride:1,padding:0,kernel_size:3,channel_factor:10.0-",
            "conv=channel_factor:10,kernel_size:3,stride:1,padding:0-",
        ),
    ],
)
def test_there_is_one_canonical_form(text: str, canonical: str) -> None:
    """Keys in one order, plain shortest decimals, a closing '-'."""
    assert format_architecture(parse(text)) == canonical


def test_equal_values_are_equal_architectures() -> None:
    """0.20 and 0.2 are the same layer, also as a key."""
    assert parse("dropout=p:0.20-") == parse("dropout=p:0.2-")
    assert len({*parse("dropout=p:0.20-"), *parse("dropout=p:0.2-")}) == 1


def test_values_are_exact() -> None:
    """Decimals, never floats."""
    (layer,) = parse("conv=channel_factor:0.7,kernel_size:3,stride:1,padding:0-")
    assert isinstance(layer, Conv)
    assert layer.channel_factor == Decimal("0.7")
    assert layer.output_channels(90) == 63
    assert int(0.7 * 90) == 62  # what floats would give


POOL = "maxpool=kernel_size:2,stride:2,padding:0"
MALFORMED = [
    ("", 0, "", "a layer: conv, batchnorm"),
    ("-", 0, "-", "a layer: conv"),
    ("   ", 0, "   ", "a layer: conv"),
    ("conv", 4, "", "'=' and the parameters of conv"),
    ("conv=", 5, "", "a parameter of conv: channel_factor"),
    ("conv(3)", 0, "conv(3)", "did you mean conv?"),
    ("Conv=channel_factor:1", 0, "Conv", "a layer: conv"),
    ("maxpol=kernel_size:2", 0, "maxpol", "did you mean maxpool?"),
    ("conv=filters:3", 5, "filters", "a parameter of conv: channel_factor"),
    ("maxpool=kernel:2", 8, "kernel", "did you mean kernel_size?"),
    ("dropout=p", 9, "", "':' and the value of p"),
    ("dropout=p:", 10, "", "p as a plain decimal"),
    ("dropout=p:2", 10, "2", "from 0 to 1"),
    ("dropout=p:-0.1-", 10, "-", "p as a plain decimal"),
    ("dropout=p:+0.1", 10, "+0.1", "p as a plain decimal"),
    ("dropout=p:.5", 10, ".5", "p as a plain decimal"),
    ("dropout=p:5.", 10, "5.", "p as a plain decimal"),
    ("dropout=p:0.1.2", 10, "0.1.2", "p as a plain decimal"),
    ("dropout=p:nan", 10, "nan", "p as a plain decimal"),
    ("batchnorm=eps:1e-05-", 14, "1e", "no exponent"),
    ("batchnorm=eps:0-", 14, "0", "above 0"),
    ("dropout=p:0.2,p:0.3", 14, "p", "nothing more; dropout has all its parameters"),
    (POOL.replace("stride", "kernel_size"), 22, "kernel_size", "a parameter of maxpool: stride"),
    ("maxpool=kernel_size:2,stride:2-", 30, "-", "',' and padding:VALUE, which maxpool needs"),
    ("maxpool=kernel_size:2,", 22, "", "a parameter of maxpool: stride, padding"),
    ("maxpool=kernel_size:2.0,stride:2,padding:0", 20, "2.0", "kernel_size as a whole number from 1"),
    ("maxpool=kernel_size:0,stride:2,padding:0", 20, "0", "from 1 to 10000"),
    ("maxpool=kernel_size:2,stride:0,padding:0", 29, "0", "stride as a whole number from 1"),
    ("maxpool=kernel_size:" + "9" * 5_000, 20, "9" * 5_000, "from 1 to 10000"),
    ("dropout=p:0.2--", 14, "-", "a layer: conv"),
    ("dropout=p:0.2- ", 14, " ", "a layer: conv"),
    (" dropout=p:0.2-", 0, " dropout", "did you mean dropout?"),
    ("dropout=p: 0.2-", 10, " 0.2", "p as a plain decimal"),
    ("dropout=p:0.2\n", 10, "0.2\n", "p as a plain decimal"),
    ("dropout=p:0.2-\x1b[31m", 14, "\x1b[31m", "a layer: conv"),
    ("dropout=p:0.\x002", 10, "0.\x002", "p as a plain decimal"),
    ("dropout=p:\u0660", 10, "\u0660", "p as a plain decimal"),  # an Arabic zero is a digit to str.isdigit
    ("dropout=p:0.²", 10, "0.²", "p as a plain decimal"),
    ("c\u043env=kernel_size:3", 0, "c\u043env", "a layer: conv"),  # a Cyrillic o
    ("dropout=\u200bp:0.2", 8, "\u200bp", "a parameter of dropout: p"),
    ("__import__('os').system('true')", 0, "__import__('os').system('true')", "a layer: conv"),
    ("{0.__class__}", 0, "{0.__class__}", "a layer: conv"),
    ("conv=" + "(" * 60_000, 5, "(" * 60_000, "a parameter of conv"),
    ("dropout=p:0.2-" * 100_000, LONGEST_STRING, None, f"at most {LONGEST_STRING} characters"),
]


@pytest.mark.parametrize(("text", "position", "offending", "allowed"), MALFORMED)
def test_a_malformed_string_names_place_text_and_what_is_allowed(
    text: str, position: int, offending: str | None, allowed: str
) -> None:
    """One error, with the position counted from 0."""
    with pytest.raises(LayerStringError) as error:
        parse(text)
    assert error.value.position == position
    assert offending is None or error.value.offending == offending
    assert allowed in error.value.allowed


@given(st.text(max_size=80) | st.text("convdroput=p:.,0123456789-_", max_size=80))
def test_any_text_is_parsed_or_refused_in_one_printable_line(text: str) -> None:
    """Nothing crashes the parser, and a terminal can show what it says."""
    try:
        parse(text)
    except LayerStringError as caught:
        error = caught
    else:
        return
    assert str(error).isprintable()
    assert len(str(error)) < 400
    assert text[error.position :].startswith(error.offending)


def test_a_long_string_is_read() -> None:
    """Thousands of layers are a matter for the checker, up to a bound on the text."""
    assert len(parse("dropout=p:0.2-" * 4_000)) == 4_000


def test_whatever_a_space_may_draw_can_be_read_again() -> None:
    """Also the longest: as many of the longest layer as a string may have."""
    number = "9" * LONGEST_NUMBER
    longest = f"conv=channel_factor:{number},kernel_size:{number},stride:{number},padding:{number}-"
    assert len(longest) == max(len(longest), *(len(format_architecture((layer,))) for layer in CLASSIC.layers))
    assert len(longest) * MOST_LAYERS < LONGEST_STRING
    drawn = parse("conv=channel_factor:1.0000000000000000000001,kernel_size:3,stride:1,padding:1-") * MOST_LAYERS
    assert parse(format_architecture(drawn)) == drawn
