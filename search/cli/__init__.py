"""The command line: the composition root, and the only place that imports workers AND storage.

Commands import what is slow (torch, ray, sqlalchemy, numpy) inside their functions, so that --help
and questions to the database answer at once.
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from search.cli.confirm import confirm
from search.cli.doctor import doctor
from search.cli.export import export
from search.cli.launch import resume, run
from search.cli.layers import check, sample, space
from search.cli.maintain import db, delete, stop
from search.cli.output import tell
from search.cli.parameters import CONFIG
from search.cli.report import report
from search.cli.results import candidates, failures, list_searches, show, status, top
from search.cli.retrain import retrain
from search.cli.signals import ignore_further
from search.cli.sql import sql
from search.cli.transfer import merge
from search.cli.watch import watch_search
from search.errors import NetsieveError


def _file_of(error: click.UsageError) -> str:
    """The --config from which a bad value came, if it did."""
    ctx, param = error.ctx, getattr(error, "param", None)
    if ctx is None or param is None or ctx.get_parameter_source(param.name) is not ParameterSource.DEFAULT_MAP:
        return ""
    return f"--config {ctx.meta[CONFIG]}: "


class OneLineErrors(click.Group):
    """A group whose errors are one line on stderr: what, where, and the next step; never a traceback.

    A run that was stopped adds the command that goes on.
    """

    def main(self, args: Sequence[str] | None = None, *_: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command and exit with its code."""
        code: Any
        _show_what_can_be_shown()
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except click.exceptions.Exit as error:
            code = error.exit_code
        except click.exceptions.NoArgsIsHelpError as error:  # its message is the help
            tell(error.format_message())
            code = error.exit_code
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "netsieve"
            code = _complain(f"{_file_of(error)}{error.format_message()} ({command} --help)", error.exit_code)
        except click.ClickException as error:
            code = _complain(error.format_message(), error.exit_code)
        except NetsieveError as error:
            code = _complain(str(error), error.exit_code, *getattr(error, "__notes__", ()))
        except (click.Abort, KeyboardInterrupt):
            code = _complain("interrupted", 130)
        except OSError as error:  # stdout is full or broken; netsieve's own files have their own errors
            code = _complain(f"cannot write the answer: {error.strerror}", 1)
        if standalone_mode:
            _drop_what_nobody_reads()
            if args is None and isinstance(code, int) and code >= 128:  # this process is the command, and ends
                ignore_further()
            cluster = sys.modules.get("workers.ray_cluster")  # imports ray: only where a run has done so
            (cluster.exit_with if cluster else sys.exit)(code if isinstance(code, int) else 0)
        return code

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke a command; where the reader of its answer, such as head, has enough, it is done."""
        try:
            answer = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:  # caught here: click would make it exit code 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered goes nowhere
            ctx.exit(0)
        return answer


def _show_what_can_be_shown() -> None:
    """A '?' for what a terminal of another encoding has not, as the blocks of a curve: data are ASCII, or bytes."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _drop_what_nobody_reads() -> None:
    """A log that is full or closed is no reason to fail: Python exits with 120 where it cannot flush stderr."""
    if sys.stderr is None:  # closed before Python started
        return
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # until the process ends


def _complain(message: str, code: int, *notes: str) -> int:
    """Print one line, and one for each note, that any terminal can take: what was typed may hold control characters."""
    for line in (f"Error: {' '.join(message.split())}", *notes):
        tell("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
    return code


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="netsieve")
def main() -> None:
    """Search the space of small convolutional networks in bulk.

    Draws layer strings, sieves out those that cannot be built and says why, trains the rest on Ray
    workers, and records every string, reason and loss in a database.

    \b
    netsieve run first --dataset digits    a first search, without a download
    netsieve top first                     its best networks
    netsieve failures first                why the others could not be built
    """  # noqa: D301  # click's mark for a paragraph that is not to be wrapped


COMMANDS = (
    run,
    resume,
    confirm,
    check,
    sample,
    space,
    list_searches,
    status,
    top,
    candidates,
    failures,
    show,
    retrain,
    report,
    export,
    watch_search,
    merge,
    sql,
    stop,
    delete,
    db,
    doctor,
)
for command in COMMANDS:
    main.add_command(command)
