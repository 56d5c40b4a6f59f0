"""The checker: what an architecture's layers do to an image's shape, or why it cannot be built.

Pure arithmetic, so a search sieves its draws without building a module. Verdicts, shapes and
parameter counts equal PyTorch's, but for two rules that PyTorch does not know:
``channels_exceed_side`` and ``over_budget``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from search.candidates import RejectionReason
from search.layers import Architecture, Conv, Layer, Rejected, Shape

BYTES_PER_NUMBER = 4  # float32

# Ceilings of every space, so that no draw can exhaust a host before a rule is asked: 10^9 channels
# are over budget, not out of memory. A space's own budgets can only be tighter.
MOST_PARAMETERS = 10**9  # 4 GB of weights
MOST_MACS = 10**13  # per image
MOST_ACTIVATION_BYTES = 2**36  # per image
MOST_ELEMENTS = 2**48  # of a feature map: the walk ends there


@dataclass(frozen=True)
class Rules:
    """What the checker needs to know of a search space."""

    input_shape: Shape = Shape(1, 28, 28)
    classes: int = 10
    channels_within_side: bool = True  # a conv's input channels must not exceed its input's height or width
    max_parameters: int = MOST_PARAMETERS  # weights and biases, classifier included
    max_macs: int = MOST_MACS  # multiply-adds per image, classifier included
    max_activation_bytes: int = MOST_ACTIVATION_BYTES  # of all layers' outputs for one image, classifier included


@dataclass(frozen=True)
class Verdict:
    """What the checker found. A rejection has a reason and a detail, and a layer unless it is over budget."""

    shapes: tuple[Shape, ...]  # the input's, then one after each layer, up to a failing one
    reason: RejectionReason | None = None
    layer: int | None = None  # the failing layer, counted from 0
    detail: str | None = None
    parameters: int | None = None  # weights and biases, classifier included; None when rejected
    macs: int | None = None  # multiply-adds per image, forward, classifier included; None when rejected

    @property
    def valid(self) -> bool:
        """Whether the architecture can be built and keeps the rules."""
        return self.reason is None


def check(architecture: Architecture, rules: Rules) -> Verdict:
    """Walk the layers over the input shape. The first rule that fails at the first layer decides."""
    shapes = [rules.input_shape]
    parameters = macs = activations = 0
    for position, layer in enumerate(architecture):
        try:
            shape = step(layer, shapes[-1], rules)
        except Rejected as rejected:
            return Verdict(tuple(shapes), rejected.reason, position, rejected.detail)
        parameters += layer.parameters(shapes[-1])
        macs += layer.macs(shapes[-1])
        activations += shape.elements
        shapes.append(shape)
        if shape.elements > MOST_ELEMENTS:  # over every budget already, and its numbers would only grow
            break
    features = shapes[-1].elements
    parameters += features * rules.classes + rules.classes
    macs += features * rules.classes
    activations += rules.classes
    excess = over_budget(parameters, macs, activations * BYTES_PER_NUMBER, rules)
    if excess:
        return Verdict(tuple(shapes), RejectionReason.OVER_BUDGET, None, excess)
    return Verdict(tuple(shapes), parameters=parameters, macs=macs)


def costs(architecture: Architecture, shapes: Sequence[Shape], classes: int) -> list[tuple[int, int]]:
    """(parameters, multiply-adds per image) of each layer of a valid architecture, the classifier's last.

    ``shapes`` is its shape trace: the input's, then one after each layer.
    """
    features = shapes[-1].elements
    layers = [(layer.parameters(s), layer.macs(s)) for layer, s in zip(architecture, shapes[:-1], strict=True)]
    return [*layers, (features * classes + classes, features * classes)]


def step(layer: Layer, shape: Shape, rules: Rules) -> Shape:
    """The shape after one layer. Raises Rejected."""
    if isinstance(layer, Conv) and rules.channels_within_side and shape.channels > min(shape.height, shape.width):
        raise Rejected(
            RejectionReason.CHANNELS_EXCEED_SIDE,
            f"{shape.channels} input channels on a side of {min(shape.height, shape.width)}",
        )
    return layer.output_shape(shape)


def over_budget(parameters: int, macs: int, activation_bytes: int, rules: Rules) -> str | None:
    """Which budget a network of these costs breaks, as a detail, or None."""
    budgets = (
        ("parameters", parameters, rules.max_parameters),
        ("multiply-adds per image", macs, rules.max_macs),
        ("activation bytes per image", activation_bytes, rules.max_activation_bytes),
    )
    for what, cost, budget in budgets:
        if cost > budget:
            return f"{magnitude(cost)} {what}, the limit is {budget:,}"
    return None


def magnitude(number: int) -> str:
    """A number for people; beyond 10^18 its order of magnitude only."""
    return f"{number:,}" if number < 10**18 else f"more than 10^{int(math.log10(2) * (number.bit_length() - 1))}"
