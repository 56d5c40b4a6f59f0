"""What the benchmarks share: the line that says where and with what, and timing of several things in turn."""

import datetime as dt
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> str:
    """A line of the day, the processor, its cores and load, Python, and the versions of the packages."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    versions = [f"{name} {version(name).partition('+')[0]}" for name in packages]  # less a build's suffix, as +cpu
    return ", ".join([
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        f"{platform.machine()} ({next(iter(models), platform.processor() or 'processor unknown')})",
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
        f"Python {platform.python_version()}",
        *versions,
    ])  # fmt: skip


def in_turn(
    rounds: int, measured: Mapping[str, Callable[[], float]], once_above: float = math.inf
) -> dict[str, list[float]]:
    """What each gives, by name, a value a round; only the first value, where that is larger than ``once_above``.

    Everything is measured once a round, and every second round runs backwards, so that a machine whose
    speed drifts is fair to all.
    """
    values: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(rounds):
        for name in list(measured)[:: -1 if number % 2 else 1]:
            if not values[name] or values[name][0] <= once_above:
                values[name].append(measured[name]())
    return values


def spread(values: Iterable[float], digits: int = 1) -> str:
    """``median (min to max)``."""
    ordered = sorted(values)
    return f"{statistics.median(ordered):,.{digits}f} ({ordered[0]:,.{digits}f} to {ordered[-1]:,.{digits}f})"


def times(values: Iterable[float], base: Iterable[float]) -> float:
    """How many times ``base`` the values are: the median of the ratios round by round, as far as both go."""
    return statistics.median(value / one for value, one in zip(values, base, strict=False))
