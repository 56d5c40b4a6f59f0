"""The report in a real browser: it draws, asks nothing of a network, and answers to the reader."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from search.candidates import Status
from tests import recorded
from tests.recorded import Row

pytest.importorskip("plotly", reason="pip install 'netsieve[report]': plotly draws the figures")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright: it leads the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")

Cli = Callable[..., Result]
NASTY = "</script><script>window.broken=1</script><img src=x onerror=window.broken=1>-"
WIDE, PHONE = 1280, 375  # pixels
SCATTER = ".plot[data-filtered=parameters]"


@dataclass
class Visit:
    """A page in a browser, and what went on behind it."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def points(self) -> int:
        """How many points the scatter plot shows."""
        return int(self.page.evaluate(f"document.querySelectorAll('{SCATTER} .scatterlayer .point').length"))

    def wait_for(self, said: str) -> None:
        """Until the filter says so, from its beginning."""
        playwright.expect(self.page.locator("#filtered")).to_have_text(re.compile(f"^{said}"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """The report of a search of every status, a hostile string in it."""
    folder = tmp_path_factory.mktemp("report")
    url = f"sqlite:///{folder / 'made.db'}"
    rows = [*recorded.mixed(300), Row(NASTY), Row(NASTY + "x", Status.FAILED, reason="exception", detail=NASTY)]
    recorded.record(url, rows, target=400)
    result = cli("report", "first", "--db", url, "--out", folder / "first.html")
    assert result.exit_code == 0, result.stderr
    return folder / "first.html"


@pytest.fixture
def visit(browser: Any, written: Path) -> Callable[..., Any]:
    """Open the report in a window of that width and colour scheme."""

    @contextmanager
    def opened(width: int = WIDE, scheme: str = "light", path: Path = written) -> Iterator[Visit]:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        visit = Visit(context.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on("console", lambda message: visit.errors.append(message.text))
        visit.page.goto(path.as_uri())
        visit.page.wait_for_selector("html.drawn", timeout=60_000)
        yield visit
        context.close()

    return opened


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_it_draws_and_asks_nothing_of_a_network(visit: Any, written: Path, width: int) -> None:
    """Every figure is drawn, no script complains, nothing is fetched but the file itself, nothing broke out."""
    with visit(width) as seen:
        asked = [url for url in seen.requests if not url.startswith(("data:", "blob:"))]
        assert asked == [written.as_uri()]
        assert seen.errors == []
        assert seen.page.evaluate("window.broken") is None
        undrawn = "[...document.querySelectorAll('.plot')].filter((div) => !div.querySelector('.main-svg'))"
        assert seen.page.evaluate(f"{undrawn}.length") == 0
        assert seen.page.evaluate("document.querySelectorAll('.plot').length") == 12


def test_an_empty_search_draws_nothing_and_complains_of_nothing(visit: Any, cli: Cli, tmp_path: Path) -> None:
    """The page's script does without figures, filter and table."""
    url = f"sqlite:///{tmp_path / 'made.db'}"
    recorded.record(url, [], runs=0)
    assert cli("report", "first", "--db", url, "--out", tmp_path / "first.html").exit_code == 0
    with visit(path=tmp_path / "first.html") as seen:
        assert seen.errors == []


def test_a_phone_does_not_scroll_sideways(visit: Any) -> None:
    """Nothing is wider than the window."""
    with visit(PHONE) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") == PHONE
        wide = (
            "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, pre, .plot') && "
            f"e.getBoundingClientRect().right > {PHONE}).map((e) => e.outerHTML.slice(0, 80))"
        )
        assert seen.page.evaluate(wide) == []


def test_the_filter_keeps_what_has_all_its_words(visit: Any) -> None:
    """In the scatter plots and in the table of the best; empty again, all is as before."""
    with visit() as seen:
        everything = seen.points()
        table = seen.page.inner_text("#best-table")
        seen.page.fill("#filter", "CHANNEL_FACTOR:2 dropout=p:0.2")
        seen.wait_for(r"\d+ of ")
        said = seen.page.inner_text("#filtered")
        kept = seen.points()
        assert re.match(rf"{kept} of the {everything} points shown match; the best of them reaches \d+\.\d", said)
        assert 0 < kept < everything
        strings = seen.page.eval_on_selector_all("#best-table code", "(codes) => codes.map((c) => c.textContent)")
        assert strings
        assert all("channel_factor:2" in string and "dropout=p:0.2" in string for string in strings)
        seen.page.fill("#filter", "no such layer")
        seen.wait_for("0 of ")
        assert seen.points() == 0
        seen.page.fill("#filter", "")
        seen.wait_for("$")
        assert (seen.points(), seen.page.inner_text("#best-table")) == (everything, table)


def test_the_filter_finds_a_hostile_string_as_text(visit: Any) -> None:
    """What looks like elements is shown, not made."""
    with visit() as seen:
        seen.page.fill("#filter", "<script>window")
        seen.wait_for("1 of ")
        assert seen.page.inner_text("#best-table code") == NASTY
        assert seen.page.evaluate("window.broken") is None


def point_at_one(seen: Visit) -> str:
    """Point at a network and click it; the label beside it."""
    seen.page.fill("#filter", "channel_factor:4 maxpool")
    seen.wait_for(r"\d+ of ")
    point = seen.page.locator(f"{SCATTER} .scatterlayer .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    seen.page.mouse.move(x - 1, y - 1)
    seen.page.mouse.move(x, y)
    label = seen.page.locator(f"{SCATTER} .hoverlayer .hovertext")
    label.wait_for()
    text = "".join((label.text_content() or "").split())
    seen.page.mouse.click(x, y)
    return text


def test_pointing_at_a_network_shows_its_string(visit: Any) -> None:
    """In a label beside it; a click keeps it below the figure."""
    with visit() as seen:
        assert recorded.STRINGS[1] in point_at_one(seen)
        assert seen.page.inner_text("#picked-parameters code") == recorded.STRINGS[1]


def test_a_tap_on_a_phone_shows_the_string_below_the_figure(visit: Any) -> None:
    """The label beside the point has room for its numbers only."""
    with visit(PHONE) as seen:
        assert "parameters" in point_at_one(seen)
        assert seen.page.inner_text("#picked-parameters code") == recorded.STRINGS[1]


def test_a_filter_does_not_move_the_axes(visit: Any) -> None:
    """What is left stands where it stood."""
    with visit() as seen:
        ticks = f"[...document.querySelectorAll('{SCATTER} .xtick text')].map((t) => t.textContent).join()"
        before = seen.page.evaluate(ticks)
        point_at_one(seen)
        assert seen.page.evaluate(ticks) == before


def test_dark_is_dark_in_page_and_figures(visit: Any) -> None:
    """Paper, ink and the figures' text change with the reader's preference."""
    colours = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color, "
        "getComputedStyle(document.querySelector('.xtick text')).fill, "
        "getComputedStyle(document.querySelector('.gridlayer path')).stroke]"
    )
    found = {}
    for scheme in ("light", "dark"):
        with visit(scheme=scheme) as seen:
            found[scheme] = seen.page.evaluate(colours)
    assert all(light != dark for light, dark in zip(found["light"], found["dark"], strict=True))
    assert _lightness(found["light"][0]) > 200
    assert _lightness(found["dark"][0]) < 100
    assert _lightness(found["dark"][2]) > 140 > _lightness(found["light"][2])


def _lightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_print_fits_the_sheet(visit: Any) -> None:
    """On paper it is light, without controls, and no figure is wider than the text."""
    with visit(scheme="dark") as seen:
        assert seen.page.pdf(format="A4").startswith(b"%PDF")
        seen.page.emulate_media(media="print", color_scheme="dark")
        seen.page.set_viewport_size({"width": 672, "height": 900})  # the text of an A4 sheet, in pixels
        seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        seen.page.wait_for_timeout(500)
        assert not seen.page.is_visible("#filter")
        assert not seen.page.is_visible("nav")
        assert _lightness(seen.page.evaluate("getComputedStyle(document.body).backgroundColor")) == 255
        widest = (
            "Math.max(...[...document.querySelectorAll('.plot .main-svg')].map((s) => s.getBoundingClientRect().right))"
        )
        assert seen.page.evaluate(widest) <= 672
