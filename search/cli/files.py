"""Files that appear whole or not at all, whatever ends the command: an error, Ctrl-C, kill -9, a full disk."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from search.errors import NotWritten, SettingsError


def standard_output() -> BinaryIO:
    """Stdout, for bytes. Raises NotWritten where it was closed before Python started."""
    if sys.stdout is None:
        raise NotWritten("stdout is closed; give the answer somewhere to go")
    return sys.stdout.buffer


def require_place(option: str, path: Path) -> None:
    """Raise SettingsError unless a file can be made or replaced there."""
    try:
        if path.is_dir():
            raise SettingsError(f"{option} {path}: is a folder; give a file in it")
        if path.exists() and not path.is_file():
            raise SettingsError(f"{option} {path}: is no plain file; leave {option} out, and redirect the output")
        if not path.resolve().parent.is_dir():
            raise SettingsError(f"{option} {path}: folder {path.parent} does not exist; create it")
        if not os.access(path.resolve().parent, os.W_OK):
            raise SettingsError(f"{option} {path}: folder {path.parent} cannot be written to; give another")
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        raise SettingsError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def written_whole(option: str, path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is at ``path`` once the context ends well, in place of what was there.

    Until then it has no name, where the file system can do that (Linux' O_TMPFILE): even kill -9 leaves nothing.
    ``option`` is for messages. Raises SettingsError: no such place; NotWritten: disk full, and so on.
    """
    require_place(option, path)
    place = path.resolve()  # a link goes on leading to the file
    hidden = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with _opened(hidden) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _name(file.fileno(), hidden)
        hidden.replace(place)
        _keep_name(place.parent)
    except OSError as error:
        raise NotWritten(f"{option} {path}: {error.strerror or error}; nothing was written") from None
    finally:
        hidden.unlink(missing_ok=True)


def _opened(hidden: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CLOEXEC
    with suppress(AttributeError, OSError):  # not Linux, or a file system that always gives names
        return os.fdopen(os.open(hidden.parent, flags | os.O_TMPFILE, 0o666), "wb")
    return os.fdopen(os.open(hidden, flags | os.O_CREAT | os.O_EXCL, 0o666), "wb")


def _name(descriptor: int, hidden: Path) -> None:
    """Name a file that has no name; a name of the last instant, for a link cannot replace another file."""
    if os.fstat(descriptor).st_nlink:
        return
    folder = os.open(hidden.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.link(f"/proc/self/fd/{descriptor}", hidden.name, dst_dir_fd=folder)  # open(2), on O_TMPFILE
    finally:
        os.close(folder)


def _keep_name(folder: Path) -> None:
    """Have the folder on disk too, where it can be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
