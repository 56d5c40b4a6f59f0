"""The five kinds of layer, each one class in one place: parameters, output shape, cost.

A layer's text form follows from its dataclass fields (names, order and types), so a kind is added
here and in ``workers/networks.py`` and nowhere else. Shapes are (channels, height, width) of one
image, without the batch. Nothing here knows torch; ``tests/search/test_shapes_against_torch.py``
holds every rule against the real modules.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

from search.candidates import RejectionReason


class Shape(NamedTuple):
    """The shape of one image or feature map, without the batch."""

    channels: int
    height: int
    width: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


class Rejected(Exception):
    """A layer cannot take its input: raised by ``output_shape``, turned into data once, in ``shapes.py``."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def parameter(meaning: str, low: str, high: str, *, above: bool = False) -> Any:
    """A layer's parameter: an int or a Decimal from ``low`` (exclusive if ``above``) to ``high``."""
    metadata = {"meaning": meaning, "low": Decimal(low), "high": Decimal(high), "above": above}
    return field(metadata=metadata)


# Far beyond any network that trains on small images, and small enough for exact 64-bit arithmetic.
LARGEST_SIDE = "10000"
LARGEST_FACTOR = "1000000000"


def sliding_window(side: int, kernel_size: int, stride: int, padding: int) -> int:
    """Output side of a convolution or pooling, undilated: floor((side + 2p - k) / s) + 1, as in torch.nn.Conv2d."""
    return (side + 2 * padding - kernel_size) // stride + 1


@dataclass(frozen=True)
class Window:
    """What convolutions and pools share: a square window that slides over the input."""

    def slide(self, shape: Shape, channels: int, kernel_size: int, stride: int, padding: int) -> Shape:
        """Shape after the window has passed over ``shape``.

        Raises Rejected (kernel_exceeds_input) if the window is larger than the padded input. Otherwise
        both output sides are at least 1, so no product of two negative sides can pass as a size.
        """
        padded = min(shape.height, shape.width) + 2 * padding
        if kernel_size > padded:
            raise Rejected(
                RejectionReason.KERNEL_EXCEEDS_INPUT,
                f"a {kernel_size}x{kernel_size} kernel does not fit in {shape.height}x{shape.width}"
                + (f" padded by {padding}" if padding else ""),
            )
        height = sliding_window(shape.height, kernel_size, stride, padding)
        width = sliding_window(shape.width, kernel_size, stride, padding)
        return Shape(channels, height, width)


@dataclass(frozen=True)
class Conv(Window):
    """A convolution with bias, followed by a ReLU. Its channels follow from its input's by a factor."""

    kind: ClassVar[str] = "conv"

    channel_factor: Decimal = parameter("output channels per input channel", "0", LARGEST_FACTOR, above=True)
    kernel_size: int = parameter("side of the square kernel", "1", LARGEST_SIDE)
    stride: int = parameter("step of the kernel", "1", LARGEST_SIDE)
    padding: int = parameter("zeros added on every side", "0", LARGEST_SIDE)

    def output_channels(self, channels: int) -> int:
        """floor(channels * channel_factor), exactly: as floats 0.7 * 90 falls below 63."""
        numerator, denominator = self.channel_factor.as_integer_ratio()
        return channels * numerator // denominator

    def output_shape(self, shape: Shape) -> Shape:
        """Shape after the convolution. Raises Rejected: channels_below_one, kernel_exceeds_input."""
        channels = self.output_channels(shape.channels)
        if channels < 1:
            raise Rejected(
                RejectionReason.CHANNELS_BELOW_ONE,
                f"{shape.channels} input channels times {plain(self.channel_factor)} leaves no channel",
            )
        return self.slide(shape, channels, self.kernel_size, self.stride, self.padding)

    def parameters(self, shape: Shape) -> int:
        """Weights and biases, for an input of ``shape``."""
        channels = self.output_channels(shape.channels)
        return channels * shape.channels * self.kernel_size**2 + channels

    def macs(self, shape: Shape) -> int:
        """Multiply-adds per image, forward, biases not counted, for an input of ``shape``."""
        return self.output_shape(shape).elements * shape.channels * self.kernel_size**2


@dataclass(frozen=True)
class Unweighted:
    """A layer without weights or multiply-adds that count."""

    def parameters(self, shape: Shape) -> int:
        """No weights."""
        return 0

    def macs(self, shape: Shape) -> int:
        """Only convolutions and the classifier are counted."""
        return 0


@dataclass(frozen=True)
class BatchNorm(Unweighted):
    """Batch normalisation over the channels, with a learned scale and shift."""

    kind: ClassVar[str] = "batchnorm"

    eps: Decimal = parameter("added to the variance", "0", "1000", above=True)

    def output_shape(self, shape: Shape) -> Shape:
        """The input's shape."""
        return shape

    def parameters(self, shape: Shape) -> int:
        """A scale and a shift per channel; the running statistics are buffers, not parameters."""
        return 2 * shape.channels


@dataclass(frozen=True)
class Pool(Window, Unweighted):
    """What average and maximum pooling share."""

    kernel_size: int = parameter("side of the square window", "1", LARGEST_SIDE)
    stride: int = parameter("step of the window", "1", LARGEST_SIDE)
    padding: int = parameter("cells added on every side", "0", LARGEST_SIDE)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape after pooling. Raises Rejected: padding_exceeds_half_kernel, kernel_exceeds_input."""
        if self.padding > self.kernel_size // 2:
            raise Rejected(
                RejectionReason.PADDING_EXCEEDS_HALF_KERNEL,
                f"padding {self.padding} is more than half of kernel_size {self.kernel_size}",
            )
        return self.slide(shape, shape.channels, self.kernel_size, self.stride, self.padding)


@dataclass(frozen=True)
class AvgPool(Pool):
    """Average pooling; padding counts as zeros, as in torch.nn.AvgPool2d."""

    kind: ClassVar[str] = "avgpool"


@dataclass(frozen=True)
class MaxPool(Pool):
    """Maximum pooling."""

    kind: ClassVar[str] = "maxpool"


@dataclass(frozen=True)
class Dropout(Unweighted):
    """Dropout of whole channels while training (torch.nn.Dropout2d)."""

    kind: ClassVar[str] = "dropout"

    p: Decimal = parameter("probability that a channel is zeroed", "0", "1")

    def output_shape(self, shape: Shape) -> Shape:
        """The input's shape."""
        return shape


Layer = Conv | BatchNorm | AvgPool | MaxPool | Dropout
Architecture = tuple[Layer, ...]

KINDS: dict[str, Callable[..., Layer]] = {kind.kind: kind for kind in (Conv, BatchNorm, AvgPool, MaxPool, Dropout)}


def plain(value: Decimal | int) -> str:
    """A number as netsieve writes it: plain, shortest, no exponent (0.00001, never 1e-05)."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_layer(layer: Layer) -> str:
    """A layer's canonical text, without the closing '-': ``maxpool=kernel_size:2,stride:2,padding:0``."""
    values = ",".join(f"{f.name}:{plain(getattr(layer, f.name))}" for f in fields(layer))
    return f"{layer.kind}={values}"
