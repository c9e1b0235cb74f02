"""The page in a headless browser: what is drawn, slider, time line, keys and mouse; and that it asks no network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pd_edge.view.html import write_html
from pd_edge.view.scene import Scene

from .browser import NO_WEBGL, WEBGL, Browser, find_browser
from .helpers import SCORES, moments

NASTY = '</script><script>document.title = "broken"</script><img src=x onerror="document.title = 1">'


@pytest.fixture(scope="module")
def program() -> str:
    """The browser."""
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium or Chrome on the PATH; PD_EDGE_BROWSER may name one")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans; those but the last with ground truth."""
    return write_html(tmp_path_factory.mktemp("page") / "view.html", Scene(NASTY, "boxes"), moments()).path


@pytest.fixture(scope="module")
def opened(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(program, tmp_path_factory.mktemp("profile"), WEBGL) as browser:
        yield browser


@pytest.fixture
def browser(opened: Browser, page: Path) -> Browser:
    """The page, freshly loaded."""
    opened.errors.clear()
    opened.requests.clear()
    opened.open(page)
    return opened


def drawn(browser: Browser, **expected: object) -> None:
    """Waits until the page says that it has drawn so."""
    terms = [f"document.body.dataset.{name} === '{value}'" for name, value in expected.items()]
    browser.wait(" && ".join(terms))


def slide(browser: Browser, score: float) -> None:
    browser.run(
        f"(s => {{ s.value = {score}; s.dispatchEvent(new Event('input')); }})(document.getElementById('score'))"
    )


def lit(browser: Browser, canvas: str) -> int:
    """How many pixels of a canvas are painted."""
    script = f"""(() => {{
      const copy = document.createElement("canvas"), from = document.getElementById("{canvas}");
      [copy.width, copy.height] = [from.width, from.height];
      const context = copy.getContext("2d");
      context.drawImage(from, 0, 0);
      const pixels = new Uint32Array(context.getImageData(0, 0, copy.width, copy.height).data.buffer);
      return pixels.reduce((sum, pixel) => sum + (pixel !== 0), 0);
    }})()"""
    return int(browser.run(script))


def test_a_page_opens_from_disk_without_errors_and_without_a_network(browser: Browser, page: Path) -> None:
    drawn(browser, painter="webgl", points=2000, found=3, truth=1, view="chase")
    assert browser.run("document.title") == NASTY
    assert browser.run("document.querySelectorAll('img, iframe, link').length") == 0
    assert browser.errors == []
    assert browser.requests == [page.resolve().as_uri()]


def test_the_score_slider_decides_which_boxes_are_drawn(browser: Browser) -> None:
    for score in (0.0, 0.3, 0.5, 0.95):
        slide(browser, score)
        count = sum(each >= score for each in SCORES)
        drawn(browser, found=count, truth=1)
        assert browser.run("document.querySelectorAll('#list li:not(.none)').length") == count + 1
        assert browser.run("document.getElementById('score-value').textContent") == f"≥ {score:.2f}"
    few = lit(browser, "over")
    browser.key("t")
    drawn(browser, found=0, truth=0)
    assert lit(browser, "over") < few
    assert browser.errors == []


def test_classes_can_be_hidden(browser: Browser) -> None:
    browser.run("document.getElementById('show-class-0').click()")
    drawn(browser, found=1, truth=1)
    assert browser.run("document.getElementById('count-class-0').textContent") == "0"


def test_the_time_line_steps_plays_and_scrubs(browser: Browser) -> None:
    clock = "document.getElementById('clock').textContent"
    assert browser.run(clock) == "0.00 s   1 / 4"
    browser.key("ArrowRight")
    drawn(browser, frame=1)
    assert browser.run(clock) == "0.50 s   2 / 4"
    browser.key("End")
    drawn(browser, frame=3, truth=0)
    browser.key("ArrowRight")
    browser.key("ArrowLeft")
    drawn(browser, frame=2, truth=1)
    line: Any = browser.run(
        "(r => [r.x, r.y, r.width, r.height])(document.getElementById('line').getBoundingClientRect())"
    )
    x, y, width, height = line
    where = {"x": x + 0.3 * width, "y": y + height / 2, "button": "left", "clickCount": 1}
    browser.mouse("mousePressed", **where)
    browser.mouse("mouseReleased", **where)
    drawn(browser, frame=1)
    browser.run("document.getElementById('speed').value = '4'")
    browser.run("document.getElementById('play').click()")
    drawn(browser, frame=3)
    browser.wait("document.getElementById('play').textContent.startsWith('▶')")
    assert browser.errors == []


def test_views_colours_and_points_change_the_picture(browser: Browser) -> None:
    pictures = {browser.picture()}
    for key, expected in (("2", {"view": "above"}), ("c", {"colour": "intensity"}), ("3", {"view": "driver"})):
        browser.key(key)
        drawn(browser, **expected)
        pictures.add(browser.picture())
    assert len(pictures) == 4
    browser.mouse("mouseWheel", 500, 400, deltaX=0, deltaY=400)
    drawn(browser, view="")
    assert browser.errors == []


def test_a_box_under_the_mouse_is_named_and_a_row_leads_to_its_box(browser: Browser) -> None:
    browser.run("document.querySelector('#list li').click()")  # the nearest: the pedestrian comes into the middle
    drawn(browser, view="", chosen="f1")
    middle: Any = browser.run("(s => [s.clientWidth / 2, s.clientHeight / 2])(document.getElementById('stage'))")
    browser.mouse("mouseMoved", *middle)
    browser.wait("!document.getElementById('tip').hidden")
    text = browser.run("document.getElementById('tip').textContent")
    assert text.startswith("Pedestrian  0.60\n9.8 m away")
    assert "3D IoU with ground truth 0.00" in text
    drawn(browser, chosen="f1")


def test_without_webgl_points_are_painted_all_the_same(program: str, page: Path, tmp_path: Path) -> None:
    with Browser(program, tmp_path, NO_WEBGL) as browser:
        browser.open(page)
        drawn(browser, painter="canvas", points=2000, found=3)
        assert lit(browser, "points") > 500
        assert browser.errors == []
