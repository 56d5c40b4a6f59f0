"""Draws README.svg: a real run, as it looks in a terminal.

    python -m tests.picture

Runs the search of `make run` in a pseudo-terminal, in a folder of its own, and draws what stood on
the screen in the middle of the run, and at its end.
"""

import sys
import tempfile
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
        for x in range(screen.columns):
            cell = screen.buffer[y][x]
            colour = None if cell.fg == "default" else cell.fg.replace("brown", "yellow")
            if colour and len(colour) == 6 and all(c in "0123456789abcdef" for c in colour):
                colour = f"#{colour}"
            text.append(cell.data, Style(color=colour, bold=cell.bold))
        text.append("\n")
    return text


def main() -> None:
    """Run, and draw."""
    terminal = Terminal(columns=112, lines=30)
    terminal.show("$ netsieve " + " ".join(TYPED) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        database = {"NETSIEVE_DB": f"sqlite:///{folder}/search.db"}
        code = terminal.run([Path(sys.executable).with_name("netsieve"), *TYPED], database)
    console = Console(record=True, width=112, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(as_text(terminal.screen), end="")
    console.save_svg(str(Path(__file__).parents[1] / "README.svg"), title="netsieve")
    sys.exit(code)


if __name__ == "__main__":
    main()
