"""What SIGINT, SIGTERM and SIGHUP do: end a run at once while it starts, ask it to stop once it works; end a look.

Where the parent had a signal ignored, as nohup does with SIGHUP, it stays ignored.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from search.cli.output import tell
from search.run import StopRequest

WANTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, object], None]


@contextmanager
def ending_at_once() -> Iterator[None]:
    """While workers start: a signal ends this process, for nothing is recorded yet.

    It is read by a thread (signal.set_wakeup_fd): where a signal to the whole process group took Ray's servers,
    ray.init is in C++ for half a minute before it gives up. What Ray has started here goes with this process.
    For some tenths of a second of ray.init SIGTERM is Ray's own, and ends the process with SIGABRT instead.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=_end_on_signal, args=(reader,), name="signals", daemon=True)
    watcher.start()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        with _handled_by(lambda _number, _frame: None):
            yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)  # the watcher reads the end
        watcher.join()


@contextmanager
def asking_to_stop(stop: StopRequest, came: list[int]) -> Iterator[None]:
    """A signal asks the run to stop, a second one to stop at once, a third one ends it; those that came are noted."""

    def handle(number: int, frame: object) -> None:
        came.append(number)
        if len(came) > 2:
            _exit_at_once(number, frame)
        stop.ask(f"interrupted by {signal.Signals(number).name}")

    with _handled_by(handle) as before:
        try:
            yield
        finally:
            if came:  # all is recorded, only closing is left: a further signal needs no more than its exit code
                before.update(dict.fromkeys(before, _exit_at_once))


@contextmanager
def ending_quietly() -> Iterator[None]:
    """A signal ends a command that only looks, from wherever it is: the terminal is put in order, nothing is said."""

    def handle(number: int, _frame: object) -> None:
        sys.exit(exit_code(number))

    with _handled_by(handle):
        yield


def ignore_further() -> None:
    """All is said, and how it ends is settled: a signal while Python ends, when no handler is left, changes nothing."""
    for number in WANTED:
        signal.signal(number, signal.SIG_IGN)


def exit_code(number: int) -> int:
    """Of a command that a signal ended; a terminal that was closed counts as SIGTERM."""
    return 128 + (signal.SIGTERM if number == signal.SIGHUP else number)


@contextmanager
def _handled_by(handler: Handler) -> Iterator[dict[signal.Signals, Any]]:
    """Set a handler for what is not ignored; gives the handlers that are set at the end: those before."""
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in WANTED}
    wanted = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in wanted:
        signal.signal(number, handler)
    try:
        yield wanted
    finally:
        for number, old in wanted.items():
            signal.signal(number, old)


def _end_on_signal(reader: int) -> None:
    number = os.read(reader, 1)
    if number:
        tell("Error: interrupted")
        os._exit(exit_code(number[0]))
    os.close(reader)


def _exit_at_once(number: int, _frame: object) -> None:
    os._exit(exit_code(number))
