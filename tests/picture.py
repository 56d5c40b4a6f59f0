"""Draws README.svg: a real run, as it looks in a terminal.

    python -m tests.picture

Runs the search of `make run` in a pseudo-terminal, with a database of its own, and draws what stands
on the screen at its end.
"""

import re
import sys
import tempfile
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.terminal import Terminal

TYPED = ["run", "first", "--dataset", "digits", "--candidates", "200"]


def as_text(screen: pyte.Screen) -> Text:
    """The screen's characters with their colours."""
    text = Text()
    last = max((y for y, line in enumerate(screen.display) if line.strip()), default=0)
    for y in range(last + 1):
        row = [screen.buffer[y][x] for x in range(screen.columns)]
        for style, cells in groupby(row, key=style_of):
            text.append("".join(cell.data for cell in cells), style)
        text.append("\n")
    return text


def style_of(cell: pyte.screens.Char) -> Style:
    """A character's colour and weight; pyte calls ANSI's yellow brown, and gives other colours as hex."""
    colour = {"default": None, "brown": "yellow"}.get(cell.fg, cell.fg)
    return Style(color=f"#{colour}" if colour and re.fullmatch("[0-9a-f]{6}", colour) else colour, bold=cell.bold)


def main() -> None:
    """Run, and draw."""
    terminal = Terminal(columns=112, lines=30)
    terminal.show("$ netsieve " + " ".join(TYPED) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        database = {"NETSIEVE_DB": f"sqlite:///{folder}/search.db"}
        code = terminal.run([Path(sys.executable).with_name("netsieve"), *TYPED], database)
    console = Console(record=True, width=112, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(as_text(terminal.screen), end="")
    picture = console.export_svg(title="netsieve")
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # it is to load nothing from elsewhere
    (Path(__file__).parents[1] / "README.svg").write_text(picture)
    sys.exit(code)


if __name__ == "__main__":
    main()
