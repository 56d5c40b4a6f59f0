"""How long this process stood still: stopped by a signal, or with its laptop asleep, which its monotonic clock counts.

A thread of its own notices. A call that takes long, of a database or in training, is no standstill: the thread wakes
meanwhile, so what hangs is seen to hang, however slow the rest is.
"""

import threading
import time
from collections.abc import Callable
from typing import Self

BEAT_S = 1.0  # between two signs of life
STANDSTILL_S = 5.0  # without one; a busy machine is late by less


class Standstill:
    """Called, it says for how many seconds this process has stood still so far; a context manager around its work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat = clock()
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="standstill", daemon=True)

    def __enter__(self) -> Self:
        self._beat = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self) -> float:
        """Up to now: whoever asks may be awake before the thread is."""
        with self._lock:
            now = self._clock()
            if now - self._beat > STANDSTILL_S:
                self._seconds += now - self._beat
            self._beat = now
            return self._seconds

    def _watch(self) -> None:
        while not self._ended.wait(BEAT_S):
            self()
