"""Search spaces: read, validated, and refused when there is nothing to find."""

from dataclasses import replace

import pytest

from search.errors import SpaceError
from search.layer_string import format_architecture
from search.layers import Shape
from search.space import CLASSIC, PRESETS, read_space, require_something_valid

CONV = "conv=channel_factor:2,kernel_size:3,stride:1,padding:0-"
TOML = CLASSIC.to_toml()


def edited(**changes: str) -> str:
    """The classic space's file with keys set to other TOML values, or added, or (None) left out."""
    lines = [line for line in TOML.splitlines() if line.split(" = ")[0] not in changes]
    added = [f"{key} = {value}" for key, value in changes.items() if value is not None]
    if "layers" in changes:
        lines = [line for line in lines if not line.startswith(("    ", "]"))]
    return "\n".join(added + lines)


def test_the_classic_space_is_the_published_one() -> None:
    """14 layers in their order, 2 to 10 of them, on one grey image of 28x28."""
    assert [format_architecture((layer,)).partition("=")[0] for layer in CLASSIC.layers] == (
        ["conv"] * 6 + ["batchnorm"] * 2 + ["avgpool"] * 2 + ["maxpool"] * 2 + ["dropout"] * 2
    )
    assert (CLASSIC.min_layers, CLASSIC.max_layers, CLASSIC.replacement) == (2, 10, False)
    assert (CLASSIC.input_shape, CLASSIC.classes, CLASSIC.channels_within_side) == ((1, 28, 28), 10, True)


@pytest.mark.parametrize(
    "space",
    [*PRESETS.values(), replace(CLASSIC, name="mine", max_macs=5, replacement=True, input_shape=Shape(3, 32, 30))],
)
def test_a_space_comes_back_from_its_file(space: object) -> None:
    """Budgets and all."""
    assert read_space(space.to_toml()) == space  # type: ignore[attr-defined]


def test_its_name_does_not_make_a_space() -> None:
    """Two spaces that draw and check the same have the same digest; any other difference shows."""
    assert replace(CLASSIC, name="other").digest() == CLASSIC.digest()
    assert replace(CLASSIC, max_macs=10**9).digest() != CLASSIC.digest()
    assert replace(CLASSIC, layers=CLASSIC.layers[::-1]).digest() != CLASSIC.digest()


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("", "key name is missing: a string"),
        ("name = ", "not TOML"),
        ("name = 'a'\nname = 'b'", "not TOML"),
        ("\x00", "not TOML"),
        ("a = " + "[" * 5_000, "too deep"),
        (edited(classes=None), "key classes is missing: a whole number"),
        (edited(clases="10"), "unknown key 'clases' (did you mean classes?)"),
        (edited(weights="1"), "unknown key 'weights'; the keys are name, input_shape"),
        (edited(classes="true"), "classes = 'True': must be a whole number"),
        (edited(classes="10.0"), "classes = '10.0': must be a whole number"),
        (edited(classes='"10"'), "must be a whole number"),
        (edited(replacement="1"), "replacement = '1': must be true or false"),
        (edited(input_shape="[1, 28]"), "input_shape = '[1, 28]': must be three whole numbers"),
        (edited(input_shape="[1, 28, true]"), "must be three whole numbers"),
        (edited(input_shape="[1, 0, 28]"), "input_shape = 0: must be from 1 to 10000"),
        (edited(input_shape="[1, 28, 99999]"), "input_shape = 99999"),
        (edited(classes="0"), "classes = 0: must be from 1"),
        (edited(min_layers="0"), "min_layers = 0: must be from 1"),
        (edited(min_layers="11"), "max_layers = 10: must be from 11"),
        (edited(max_layers="15"), "only 14 layers to draw from without replacement"),
        (edited(name='"a/b"'), "name = 'a/b': a space's name has"),
        (edited(max_parameters="0"), "max_parameters = 0: must be from 1"),
        (edited(max_macs="100000000000000"), "max_macs = 100000000000000: must be from 1 to 10000000000000"),
        (edited(layers="[]"), "number of layers = 0"),
        (edited(layers=f'["{CONV}", "{CONV}"]'), "stands twice; list each layer once"),
        (edited(layers=f'["{CONV}{CONV}"]'), "entry 0 (counted from 0): 2 layers in one entry"),
        (edited(layers=f'["{CONV}", "conv=3-"]'), "entry 1 (counted from 0): malformed layer string: at position 5"),
        (edited(layers="[3]"), "entry 0 (counted from 0): '3' must be a string in quotes"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(toml: str, says: str) -> None:
    """With the key, its value, and what is right."""
    with pytest.raises(SpaceError) as error:
        read_space(toml)
    assert says in str(error.value)


def space_of(*layers: str, **changes: object) -> object:
    values = {"min_layers": 1, "max_layers": len(layers), **changes}
    return read_space(edited(layers=repr(list(layers)), **{k: str(v).lower() for k, v in values.items()}))


POOL = "maxpool=kernel_size:4,stride:4,padding:0-"
SHRINK = "conv=channel_factor:0.4,kernel_size:3,stride:1,padding:0-"
SAME = "conv=channel_factor:1,kernel_size:1,stride:1,padding:0-"


@pytest.mark.parametrize(
    ("space", "reasons"),
    [
        (space_of(SHRINK), ["channels_below_one"]),
        (space_of(CONV, input_shape="[1, 2, 2]"), ["kernel_exceeds_input"]),
        (space_of("maxpool=kernel_size:2,stride:1,padding:2-"), ["padding_exceeds_half_kernel"]),
        (space_of(SAME, input_shape="[3, 2, 2]"), ["channels_exceed_side"]),
        (space_of(SAME, CONV, max_parameters=100), ["over_budget"]),
        (space_of(POOL, SHRINK, CONV, min_layers=3), ["channels_below_one"]),
        (space_of(POOL, replacement="true", min_layers=3, max_layers=3), ["kernel_exceeds_input"]),
        (
            space_of(SHRINK, CONV, CONV.replace("2", "1"), input_shape="[1, 4, 4]", min_layers=3),
            [SHRINK, "kernel_exceeds"],
        ),
    ],
)
def test_a_space_with_nothing_valid_is_refused_with_the_reasons(space: object, reasons: list[str]) -> None:
    """Each reason that was met, and an example."""
    with pytest.raises(SpaceError, match="no layer string of this space is valid") as error:
        require_something_valid(space)  # type: ignore[arg-type]
    for reason in reasons:
        assert reason in str(error.value)


@pytest.mark.parametrize(
    "space",
    [
        CLASSIC,
        space_of(POOL, SHRINK, CONV, min_layers=1),
        # Only conv x4, then conv x0.4, then the pool is long enough: every other order fails.
        space_of(
            SHRINK, CONV.replace("factor:2", "factor:4"), "maxpool=kernel_size:24,stride:24,padding:0-", min_layers=3
        ),
        # Only a pool first brings the classifier's weights under the budget.
        space_of(SAME, POOL, max_parameters=600),
    ],
)
def test_a_space_with_little_that_is_valid_is_let_through(space: object) -> None:
    """The search for something valid finds what is rare."""
    require_something_valid(space)  # type: ignore[arg-type]
