"""The command report: one HTML file that says what a search found.

    database --findings.py--> Findings --figures.py--> figures --page.py--> one page --here--> a file

Nothing slow is imported before the command runs; plotly is an extra of the distribution.
"""

import os
from contextlib import suppress
from pathlib import Path

import click

from search.cli.parameters import database_option, name_argument
from search.cli.results import reading
from search.errors import SettingsError


@click.command()
@name_argument()
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.html", help="Where to write it; NAME.html unless given."
)
@database_option()
def report(name: str, out: Path | None, url: str) -> None:
    """Write what the search NAME found as one HTML page that needs no network.

    Also while the search is running. Needs plotly: pip install 'netsieve[report]'.
    """
    out = out or Path(f"{name}.html")
    _require_plotly()
    require_place(out)
    from search.cli.report.figures import draw
    from search.cli.report.findings import gather
    from search.cli.report.page import compose
    from storage.engine import shown

    with reading(url) as connection:
        findings = gather(connection, name, shown(url))
    page = compose(findings, draw(findings))
    write_whole(out, page)
    click.echo(f"wrote {out} ({len(page) / 1e6:.1f} MB)", err=True)


def _require_plotly() -> None:
    """Raise SettingsError where plotly is not installed."""
    try:
        import plotly  # noqa: F401
    except ImportError:
        missing = "report: draws its figures with plotly, which is missing; pip install 'netsieve[report]'"
        raise SettingsError(missing) from None


def require_place(out: Path) -> None:
    """Raise SettingsError unless a file can be put there; nothing but a file is ever replaced."""
    try:
        if out.is_dir():
            raise SettingsError(f"--out {out}: is a folder; name a file in it, such as {out / 'report.html'}")
        if out.exists() and not out.is_file():
            raise SettingsError(f"--out {out}: is there, and no file; name another one")
        if not out.resolve().parent.is_dir():
            raise SettingsError(f"--out {out}: there is no folder {out.parent}; make it, or name another file")
    except OSError as error:  # a name too long, a loop of links
        raise _unwritable(out, error) from None


def write_whole(out: Path, text: str) -> None:
    """Write a file whole or not at all: beside its place, forced to the disk, then renamed. Raises SettingsError."""
    place = out.resolve()  # a link stays one
    beside = place.with_name(f".netsieve-report-{os.getpid()}.tmp")
    try:
        try:
            with beside.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(place)
        finally:
            with suppress(FileNotFoundError):
                beside.unlink()
    except OSError as error:
        raise _unwritable(out, error) from None


def _unwritable(out: Path, error: OSError) -> SettingsError:
    return SettingsError(f"--out {out}: cannot be written: {error.strerror}; name another file")
