"""How a report writes numbers, and text into HTML."""

import html
import math

THIN = "\u202f"  # a narrow space that does not break


def escaped(text: object) -> str:
    """Text fit for HTML and for attributes."""
    return html.escape(str(text))


def count(number: float) -> str:
    """A whole number: 1,024."""
    return f"{number:,.0f}"


def share(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage: 95.9 %."""
    return "–" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{digits}f}{THIN}%"


def points(difference: float | None) -> str:
    """A difference of two fractions in percentage points, signed: +12.3."""
    return "–" if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def loss(value: float | None) -> str:
    """A loss: 0.1386."""
    return "–" if value is None or math.isnan(value) else f"{value:.4f}" if value < 1_000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time in the unit that fits: 42 s, 3.5 min, 12.1 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f}{THIN}{unit}"
    return f"{seconds:.1f}{THIN}s"


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun: 1 candidate, 2 candidates."""
    return f"{count(number)} {one if number == 1 else several or one + 's'}"


def reason(name: str) -> str:
    """A reason's name as words."""
    return name.replace("_", " ")


def breaking(layers: str) -> str:
    """A layer string as HTML that may break after each layer and parameter."""
    return escaped(layers).replace("-", "-<wbr>").replace(",", ",<wbr>")
