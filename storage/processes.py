"""Which process is at work, and whether another one still is.

A process id alone lies: after a restart, or once it is used again. With the machine's boot id and
the process's start time it does not. Elsewhere than on Linux both are unknown and the id decides.
"""

import contextlib
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Host, boot id, process id and its start (clock ticks since boot; 0 if unknown) of this process."""
    return {"host": socket.gethostname(), "boot_id": boot_id(), "pid": os.getpid(), "pid_started": started(os.getpid())}


def is_alive(pid: int, pid_started: int) -> bool:
    """Whether that process of this machine's present boot still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # someone else's, but alive
    return started(pid) == pid_started and not _is_zombie(pid)


@cache
def boot_id() -> str:
    """The machine's boot id, and the namespace in which its process ids count (containers); empty if unknown."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def started(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc(5), stat, field 22); 0 if unknown."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] == ["Z"]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, which may hold blanks; empty if unknown."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []
