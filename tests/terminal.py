"""A terminal to run a command in: a pseudo-terminal, and pyte's emulation of what a person would see."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

import pyte


class Terminal:
    """Runs one command, and keeps its screen as it stands and as it stood while a live display was shown."""

    def __init__(self, columns: int = 110, lines: int = 40) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.frames: list[str] = []  # the screen's text after each piece of output
        self.process: subprocess.Popen[bytes]  # the command, once it runs

    @property
    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def show(self, text: str) -> None:
        """Put text on the screen, as if it had been printed."""
        self._stream.feed(text.replace("\n", "\r\n").encode())

    def run(self, command: list[str | Path], environment: dict[str, str] | None = None) -> int:
        """Run to the end; the exit code."""
        master, slave = pty.openpty()
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        settings = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(environment or {})}
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=settings) as process:
            self.process = process
            os.close(slave)
            while output := self._read(master):
                self._stream.feed(output)
                self.frames.append(self.text)
        os.close(master)
        return process.returncode

    @staticmethod
    def _read(master: int) -> bytes:
        try:
            return os.read(master, 65536)
        except OSError:  # how a pseudo-terminal says that the other side is closed
            return b""
