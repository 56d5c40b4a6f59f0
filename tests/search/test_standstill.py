"""How long a process stood still."""

import time

from search.standstill import BEAT_S, STANDSTILL_S, Standstill


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pause_counts_at_once_and_once() -> None:
    """Whoever asks may be awake before the thread is."""
    clock = Clock()
    stood_still = Standstill(clock)
    clock.now += STANDSTILL_S
    assert stood_still() == 0
    clock.now += 60.0
    assert [stood_still(), stood_still()] == [60.0, 60.0]
    clock.now += 30.0
    assert stood_still() == 90.0


def test_what_takes_long_is_no_pause() -> None:
    """The thread wakes meanwhile; by a clock that is five times as fast as the real one."""
    with Standstill(lambda: 4.0 * time.monotonic() / BEAT_S) as stood_still:
        time.sleep(3 * BEAT_S)
        assert stood_still() == 0
