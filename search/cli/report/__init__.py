"""The command report: one HTML file that says what a search found.

    database --findings.py--> Findings --figures.py--> figures --page.py--> one page --here--> a file

Nothing slow is imported before the command runs; plotly is an extra of the distribution.
"""

from pathlib import Path

import click

from search.cli.files import require_place, written_whole
from search.cli.output import tell
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
    require_place("--out", out)
    if out.suffix.lower() not in {".html", ".htm"}:
        raise SettingsError(f"--out {out}: a report is an HTML page; give a file that ends in .html")
    from search.cli.report.figures import draw
    from search.cli.report.findings import gather
    from search.cli.report.page import compose
    from storage.engine import shown

    with reading(url) as connection:
        findings = gather(connection, name, shown(url))
    page = compose(findings, draw(findings)).encode()
    with written_whole("--out", out) as file:
        file.write(page)
    tell(f"wrote {out} ({len(page) / 1e6:.1f} MB)")


def _require_plotly() -> None:
    """Raise SettingsError where plotly is not installed."""
    try:
        import plotly  # noqa: F401
    except ImportError:
        missing = "report: draws its figures with plotly, which is missing; pip install 'netsieve[report]'"
        raise SettingsError(missing) from None
