"""The checker's rules, one by one, by hand; ``test_shapes_against_torch.py`` tries them by the thousand."""

from dataclasses import replace

import pytest

from search.candidates import RejectionReason
from search.layer_string import parse
from search.layers import AvgPool, Conv, MaxPool, Shape
from search.shapes import Rules, check

C3 = "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-"
ONE = "conv=channel_factor:1,kernel_size:{},stride:{},padding:{}-"
FREE = Rules(channels_within_side=False)

# Of the published strings: the reason and the layer. 1x28x28 and a factor below 1 leave no channel; in the
# second the conv gives 3x26x26, avgpool 3x6x6, conv 0.6 one channel of 4x4, maxpool 1x1x1, and then 0.8 none.
PUBLISHED_VERDICTS = [
    (RejectionReason.CHANNELS_BELOW_ONE, 0),
    (RejectionReason.CHANNELS_BELOW_ONE, 6),
    (RejectionReason.CHANNELS_BELOW_ONE, 1),
    (RejectionReason.CHANNELS_BELOW_ONE, 0),
    (RejectionReason.CHANNELS_BELOW_ONE, 0),
    (RejectionReason.CHANNELS_BELOW_ONE, 3),
    (None, None),
]


def test_the_published_strings(published: tuple[str, ...]) -> None:
    """Six are rejected; the seventh is Conv2d(1, 3) ... Linear(2028, 10)."""
    verdicts = [check(parse(string), Rules()) for string in published]
    assert [(verdict.reason, verdict.layer) for verdict in verdicts] == PUBLISHED_VERDICTS
    last = verdicts[-1]
    assert last.shapes == ((1, 28, 28), (1, 28, 28), (3, 26, 26), (3, 26, 26))
    assert last.shapes[-1].elements == 2028
    assert last.parameters == 3 * 1 * 9 + 3 + 2028 * 10 + 10
    assert last.macs == 3 * 26 * 26 * 9 + 2028 * 10


def test_two_negative_sides_do_not_pass_as_a_size() -> None:
    """The published method's flaw: 28 -> 7 -> 1 -> -1 -> -3 by arithmetic alone, and (-3)(-3) = 9 'features'."""
    architecture = parse("maxpool=kernel_size:4,stride:4,padding:0-" * 2 + ONE.format(3, 1, 0) * 2)
    side = 28
    for layer in architecture:
        assert isinstance(layer, Conv | MaxPool)
        side = (side + 2 * layer.padding - layer.kernel_size) // layer.stride + 1
    assert side == -3
    assert side * side > 0
    verdict = check(architecture, Rules())
    assert (verdict.reason, verdict.layer) == (RejectionReason.KERNEL_EXCEEDS_INPUT, 2)
    assert verdict.shapes == ((1, 28, 28), (1, 7, 7), (1, 1, 1))


@pytest.mark.parametrize(
    ("string", "rules", "reason", "layer"),
    [
        # 3 channels on a side of 2: before kernel_exceeds_input, and only for convolutions
        (C3, Rules(Shape(3, 2, 28)), "channels_exceed_side", 0),
        (C3, Rules(Shape(3, 28, 2)), "channels_exceed_side", 0),
        (C3, replace(FREE, input_shape=Shape(3, 2, 28)), "kernel_exceeds_input", 0),
        ("dropout=p:0.2-", Rules(Shape(3, 2, 2)), None, None),
        ("conv=channel_factor:0.1,kernel_size:9,stride:1,padding:0-", Rules(Shape(3, 3, 3)), "channels_below_one", 0),
        ("maxpool=kernel_size:3,stride:1,padding:2-", Rules(Shape(1, 1, 1)), "padding_exceeds_half_kernel", 0),
        ("maxpool=kernel_size:2,stride:1,padding:1-", Rules(), None, None),
        ("avgpool=kernel_size:3,stride:1,padding:0-", Rules(Shape(1, 3, 2)), "kernel_exceeds_input", 0),
        ("avgpool=kernel_size:3,stride:1,padding:1-", Rules(Shape(1, 3, 1)), None, None),
        (C3 + "dropout=p:0.2-" + ONE.format(30, 1, 0) + ONE.format(99, 1, 0), Rules(), "kernel_exceeds_input", 2),
    ],
)
def test_the_first_rule_at_the_first_layer_decides(
    string: str, rules: Rules, reason: str | None, layer: int | None
) -> None:
    """Rules are tried in their order at a layer, layers in theirs."""
    verdict = check(parse(string), rules)
    assert (verdict.reason, verdict.layer) == (reason, layer)
    assert (verdict.detail is None) == (reason is None)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side", "expected"),
    [(3, 1, 0, 28, 26), (3, 1, 1, 28, 28), (2, 2, 0, 7, 3), (4, 4, 0, 7, 1), (5, 3, 2, 28, 10), (1, 1, 0, 1, 1)],
)
def test_sides_are_floored(kernel: int, stride: int, padding: int, side: int, expected: int) -> None:
    """floor((side + 2p - k) / s) + 1."""
    verdict = check(parse(ONE.format(kernel, stride, padding)), replace(FREE, input_shape=Shape(1, side, side)))
    assert verdict.shapes[-1] == (1, expected, expected)


def test_parameters_and_macs_by_hand() -> None:
    """A convolution, a normalisation and a pool on 2x8x6, and a classifier of 5."""
    rules = Rules(Shape(2, 8, 6), classes=5)
    verdict = check(parse(C3 + "batchnorm=eps:0.1-maxpool=kernel_size:2,stride:2,padding:0-"), rules)
    assert verdict.shapes == ((2, 8, 6), (6, 6, 4), (6, 6, 4), (6, 3, 2))
    assert verdict.parameters == (6 * 2 * 9 + 6) + 2 * 6 + (36 * 5 + 5)
    assert verdict.macs == 6 * 6 * 4 * 2 * 9 + 36 * 5


@pytest.mark.parametrize(
    ("budget", "limit", "says"),
    [
        ("max_parameters", 20_319, "20,320 parameters, the limit is 20,319"),
        ("max_macs", 38_531, "38,532 multiply-adds per image, the limit is 38,531"),
        ("max_activation_bytes", 8_151, "8,152 activation bytes per image, the limit is 8,151"),
    ],
)
def test_a_budget_is_a_rule_of_the_whole_network(budget: str, limit: int, says: str) -> None:
    """One over is rejected without a layer; exactly the limit is not."""
    verdict = check(parse(C3), replace(Rules(), **{budget: limit}))  # type: ignore[arg-type]
    assert (verdict.reason, verdict.layer, verdict.detail) == (RejectionReason.OVER_BUDGET, None, says)
    assert (verdict.parameters, verdict.macs) == (None, None)
    assert len(verdict.shapes) == 2
    assert check(parse(C3), replace(Rules(), **{budget: limit + 1})).valid  # type: ignore[arg-type]


def test_no_draw_can_exhaust_a_host() -> None:
    """A thousand million channels are over the ceiling of every space, in a short line."""
    verdict = check(parse("conv=channel_factor:1000000000,kernel_size:1,stride:1,padding:0-" * 50), FREE)
    assert verdict.reason is RejectionReason.OVER_BUDGET
    assert str(verdict.detail).startswith("more than 10^")
    assert len(str(verdict.detail)) < 100
    longer = check(parse("conv=channel_factor:1000000000,kernel_size:1,stride:1,padding:0-" * 900), FREE)
    assert max(longer.shapes[-1]) < 10**24


def test_pools_do_not_change_channels() -> None:
    """Nor does anything but a convolution."""
    shape = Shape(7, 9, 9)
    assert MaxPool(3, 3, 0).output_shape(shape) == AvgPool(3, 3, 0).output_shape(shape) == (7, 3, 3)
