"""netsieve doctor: look over a set-up, and say what is wrong with it and how to mend it."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import click

from search.cli.output import Record, as_record, columns, format_option, print_many
from search.cli.parameters import database_option, default_data_dir
from search.errors import NetsieveError

LONGEST_TEMP_DIR = 45  # characters; beyond it Ray's sockets exceed the 107 bytes of AF_UNIX (ray#7724)
FREE_BYTES = 2 * 2**30  # on the disk of Ray's logs


class Health(StrEnum):
    """What doctor thinks of one thing."""

    OK = "ok"
    WARNING = "warning"  # works, with a limit worth knowing
    FAILED = "failed"  # a search would not run


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    health: Health
    what: str
    detail: str


@click.command()
@database_option()
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="NETSIEVE_DATA_DIR", help="Folder of the datasets.")
@format_option()
@click.pass_context
def doctor(ctx: click.Context, url: str, data_dir: Path | None, style: str) -> None:
    """Check this machine's set-up; exit code 1 if a search would not run."""
    findings = [
        *(_examined(what, look) for what, look in _LOOKS.items()),
        _examined("database", lambda: _database(url)),
        _examined("datasets", lambda: _datasets(data_dir or default_data_dir())),
    ]

    def table(records: Iterator[Record]) -> Iterator[str]:
        yield from columns(("health", "what", "detail"), [list(record.values()) for record in records])

    print_many(style, map(as_record, findings), table)
    ctx.exit(1 if any(finding.health is Health.FAILED for finding in findings) else 0)


def _examined(what: str, look: Callable[[], tuple[Health, str]]) -> Finding:
    try:
        health, detail = look()
    except NetsieveError as error:
        health, detail = Health.FAILED, str(error)
    except Exception as error:  # noqa: BLE001  # whatever is broken, doctor says so and looks further
        health, detail = Health.FAILED, f"{type(error).__name__}: {error}"
    return Finding(health, what, " ".join(detail.split()))


def _python() -> tuple[Health, str]:
    return Health.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"


def _packages() -> tuple[Health, str]:
    names = (
        "netsieve",
        "torch",
        "torchvision",
        "ray",
        "sqlalchemy",
        "alembic",
        "numpy",
        "click",
        "rich",
        "scikit-learn",
    )
    return Health.OK, ", ".join(f"{name} {version(name)}" for name in names)


def _torch() -> tuple[Health, str]:
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Health.OK, f"torch sees {len(gpus)} GPU: {', '.join(gpus)}"
    return Health.OK, f"torch sees no GPU: candidates train on {os.cpu_count()} CPU cores"


def _torchvision() -> tuple[Health, str]:
    from workers.torchvision_on_cpu import import_datasets

    return Health.OK, f"imports: {import_datasets().__name__}"


def _ray() -> tuple[Health, str]:
    from workers.ray_cluster import library_version

    return Health.OK, f"imports: version {library_version()}"


def _token() -> tuple[Health, str]:
    """Whoever can read a cluster's token can run code on it."""
    from workers.ray_cluster import token_file

    file = token_file()
    if "RAY_AUTH_TOKEN" in os.environ:
        return (
            Health.WARNING,
            "RAY_AUTH_TOKEN is inherited by all that is started here; RAY_AUTH_TOKEN_PATH names a file",
        )
    if not file.exists():
        return Health.OK, f"no {file}: Ray makes one for a session of this machine"
    if file.stat().st_mode & 0o077:
        return Health.WARNING, f"others can read {file}, and with it run code on the cluster: chmod 600 {file}"
    return Health.OK, f"{file} is yours alone"


def _temp_dir() -> tuple[Health, str]:
    from workers.ray_cluster import temp_dir

    folder = temp_dir()
    free = shutil.disk_usage(folder).free
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    if len(str(folder)) > LONGEST_TEMP_DIR:
        why = f"longer than {LONGEST_TEMP_DIR} characters, so Ray cannot start"
        return Health.FAILED, f"{detail}; {why}: set RAY_TMPDIR"
    if free < FREE_BYTES:
        return Health.WARNING, f"{detail}; Ray's logs may fill it: make room, or set RAY_TMPDIR"
    return Health.OK, detail


def _sqlite() -> tuple[Health, str]:
    import sqlite3

    from storage.sqlite import WAL_RESET_FIXED

    if sqlite3.sqlite_version_info < WAL_RESET_FIXED:
        fixed = ".".join(map(str, WAL_RESET_FIXED))
        return Health.WARNING, (
            f"library {sqlite3.sqlite_version}; before {fixed} two programs that write at once can corrupt a database: "
            "netsieve's own take turns, let no other program write to it"
        )
    return Health.OK, f"library {sqlite3.sqlite_version}"


def _database(url: str) -> tuple[Health, str]:
    from search.cli.results import reading
    from storage import engine, queries

    engine.require_writable(url)
    if not engine.holds_something(url):
        return Health.OK, f"{engine.shown(url)} holds nothing yet; netsieve run begins it"
    with reading(url) as connection:
        searches = len(queries.names(connection))
    return Health.OK, f"{engine.shown(url)} has {searches} {'search' if searches == 1 else 'searches'}"


def _datasets(data_dir: Path) -> tuple[Health, str]:
    from workers.datasets import present

    found = present(data_dir)
    if "mnist" in found:
        return Health.OK, f"{', '.join(found)} in {data_dir}"
    return Health.WARNING, (
        f"no mnist in {data_dir}: netsieve run downloads it, or reads --data-dir; --dataset digits needs no files"
    )


_LOOKS: dict[str, Callable[[], tuple[Health, str]]] = {
    "python": _python,
    "packages": _packages,
    "torch": _torch,
    "torchvision": _torchvision,
    "ray": _ray,
    "ray's token": _token,
    "temporary folder": _temp_dir,
    "sqlite": _sqlite,
}
