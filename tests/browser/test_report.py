"""The report of a real run, as somebody sees it who opens the file."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import series

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
# Where a hand goes for some digits, in shares of the paper's sides.
STROKES = {
    digit: [(x / 100, y / 100) for x, y in stroke]
    for digit, stroke in {
        "7": [(25, 20), (72, 18), (60, 45), (48, 85)],
        "1": [(52, 15), (50, 50), (48, 85)],
        "0": [
            (50, 15),
            (33, 25),
            (27, 50),
            (34, 76),
            (50, 85),
            (66, 76),
            (73, 50),
            (67, 25),
            (50, 15),
        ],
        "3": [
            (31, 22),
            (46, 14),
            (63, 20),
            (62, 36),
            (46, 47),
            (66, 56),
            (68, 73),
            (52, 86),
            (30, 79),
        ],
    }.items()
}
CONTROLS = """() => [...document.querySelectorAll(
        "a[href], button, input, select, summary, [tabindex='0']")]
    .filter((each) => each.checkVisibility() && !each.hidden)"""
SETTLED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@contextlib.contextmanager
def opened(browser: Any, report: Path, **settings: Any) -> Iterator[Any]:
    """Open the report in a window of its own; it must neither complain nor ask for anything."""
    context = browser.new_context(**({"viewport": DESKTOP} | settings))
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(report.as_uri())
        yield page
        page.evaluate(SETTLED)
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    finally:
        context.close()


@pytest.fixture(scope="module")
def kept(browser: Any, report: Path) -> Iterator[Any]:
    with opened(browser, report) as page:
        yield page


@pytest.fixture
def page(kept: Any) -> Any:
    """The report with nothing drawn; other tests have drawn on it, so that Undo may undo theirs."""
    kept.emulate_media(media="screen")
    kept.mouse.move(0, 0)
    kept.get_by_role("button", name="Clear").click()
    return kept


@pytest.fixture
def untouched(browser: Any, report: Path) -> Iterator[Any]:
    """The report as nobody has used it yet."""
    with opened(browser, report) as page:
        yield page


def spots(page: Any, digit: str) -> list[tuple[float, float]]:
    """Return where a digit's stroke goes in the window, in CSS pixels."""
    paper = page.locator("[data-draw=paper]")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in STROKES[digit]]


def draw(page: Any, digit: str) -> None:
    first, *others = spots(page, digit)
    page.mouse.move(*first)
    page.mouse.down()
    for spot in others:
        page.mouse.move(*spot, steps=4)
    page.mouse.up()


def answer(page: Any) -> str:
    page.evaluate(SETTLED)
    return str(page.locator("[data-draw=answer]").text_content())


def probabilities(page: Any) -> list[tuple[str, str]]:
    """Return the shown probability of each class, as (label, percent)."""
    page.evaluate(SETTLED)
    rows = page.locator("[data-draw=probability]").all_inner_texts()
    return [(label, percent) for label, percent in map(str.split, rows)]


def ink(page: Any) -> int:
    """Return how many pixels of what the model sees are not black."""
    page.evaluate(SETTLED)
    return int(
        page.evaluate(
            """() => {
                const seen = document.querySelector("[data-draw=seen]");
                const copy = new OffscreenCanvas(28, 28).getContext("2d");
                copy.drawImage(seen, 0, 0);
                const { data } = copy.getImageData(0, 0, 28, 28);
                return data.filter((value, i) => i % 4 === 0 && value > 0).length;
            }"""
        )
    )


def test_it_is_small_enough_to_send(report: Path) -> None:
    assert 100_000 < report.stat().st_size < 2_000_000


def test_every_panel_is_drawn(page: Any) -> None:
    sections = page.locator("main section").all()
    assert len(sections) >= 8
    for section in sections:
        assert section.locator("h2").text_content()
        assert len(section.inner_text()) > 50
        assert section.locator(".empty").count() == 0 or section.get_attribute("id") == "training"
        assert section.bounding_box()["height"] > 100
    drawings = page.locator("svg").all()
    assert len(drawings) >= 4
    assert all(min(d.bounding_box()["width"], d.bounding_box()["height"]) > 3 for d in drawings)
    assert page.locator("main .plot path").count() > 20
    images = "() => [...document.images].map((image) => image.complete && image.naturalWidth)"
    assert all(width >= 28 for width in page.evaluate(images))
    assert page.locator("#wrong img").count() > 0


def test_digits_drawn_with_the_mouse_are_read(page: Any) -> None:
    for digit in STROKES:
        assert answer(page) == "Nothing drawn"
        draw(page, digit)
        read, _, percent = answer(page).partition(", ")
        assert read == digit
        shares = probabilities(page)
        assert [label for label, _ in shares] == [str(i) for i in range(10)]
        assert dict(shares)[digit] == percent
        assert sum(float(share.rstrip("%")) for _, share in shares) == pytest.approx(100, abs=0.6)
        page.locator("[data-draw=clear]").click()


def test_probabilities_follow_the_pen(page: Any) -> None:
    seen = set()
    first, *others = spots(page, "7")
    page.mouse.move(*first)
    page.mouse.down()
    for spot in others:
        page.mouse.move(*spot, steps=4)
        seen.add(tuple(probabilities(page)))
    assert len(seen) == len(others)
    page.mouse.up()
    end = ink(page)
    page.mouse.move(*first, steps=4)
    assert ink(page) == end


def test_a_digit_drawn_with_a_finger_is_read(browser: Any, report: Path) -> None:
    with opened(browser, report, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        where = spots(page, "7")
        scrolled = page.evaluate("scrollY")
        fingers = page.context.new_cdp_session(page)

        def touch(kind: str, points: list[tuple[float, float]]) -> None:
            spread = [{"x": x, "y": y} for x, y in points]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": spread})

        touch("touchStart", where[:1])
        for (x, y), (to_x, to_y) in itertools.pairwise(where):
            for share in (0.25, 0.5, 0.75, 1.0):
                touch("touchMove", [(x + share * (to_x - x), y + share * (to_y - y))])
        touch("touchEnd", [])
        assert answer(page).startswith("7, ")
        assert page.evaluate("scrollY") == scrolled


def test_undo_and_clear(untouched: Any) -> None:
    draw(untouched, "1")
    one = (answer(untouched), ink(untouched))
    draw(untouched, "0")
    both = (answer(untouched), ink(untouched))
    assert both != one
    undo = untouched.get_by_role("button", name="Undo")
    undo.click()
    assert (answer(untouched), ink(untouched)) == one
    untouched.get_by_role("button", name="Clear").click()
    assert (answer(untouched), ink(untouched)) == ("Nothing drawn", 0)
    undo.click()
    assert (answer(untouched), ink(untouched)) == one
    undo.click()
    undo.click()
    assert (answer(untouched), ink(untouched)) == ("Nothing drawn", 0)


def test_examples_are_there_for_the_keyboard(page: Any) -> None:
    page.get_by_role("button", name="Show an example").focus()
    for digit in range(10):
        page.keyboard.press("Enter")
        assert answer(page).startswith(f"{digit}, ")
    assert page.locator("[data-draw=answer]").get_attribute("aria-live") == "polite"


def test_the_keyboard_reaches_all_controls(untouched: Any) -> None:
    wanted = untouched.evaluate(f"() => ({CONTROLS})().length")
    assert wanted > 10
    reached = set()
    place = f"() => ({CONTROLS})().indexOf(document.activeElement)"
    for _ in range(wanted):
        untouched.keyboard.press("Tab")
        reached.add(untouched.evaluate(place))
    assert reached == set(range(wanted))


def colours(page: Any, selector: str) -> tuple[float, float]:
    """Return how bright an element's text and background are, 0 to 1."""
    script = """(element) => ["color", "backgroundColor"].map((name) => {
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.fillStyle = getComputedStyle(element)[name];
        canvas.fillRect(0, 0, 1, 1);
        const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data;
        return (red + green + blue) / 765;
    })"""
    text, background = page.locator(selector).evaluate(script)
    return text, background


def test_paper_gets_no_panel_to_draw_on(page: Any) -> None:
    page.emulate_media(media="print")
    assert not page.locator("#draw").is_visible()
    assert page.locator("#confusion").is_visible()


VIEWS = [(DESKTOP, "light"), (PHONE, "dark"), (DESKTOP, "dark"), (PHONE, "light")]


@pytest.mark.parametrize(("viewport", "scheme"), VIEWS if series.LONG else VIEWS[:2])
def test_it_suits_the_screen_and_is_light_or_dark_as_the_reader_likes(
    browser: Any, report: Path, tmp_path: Path, viewport: dict[str, int], scheme: str
) -> None:
    phone = {"has_touch": True, "is_mobile": True} if viewport is PHONE else {}
    with opened(browser, report, viewport=viewport, color_scheme=scheme, **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        buttons = page.locator("[data-draw=panel] button").all()
        assert buttons
        assert not phone or all(button.bounding_box()["height"] >= 40 for button in buttons)
        for selector in ("body", "[data-draw=paper]"):
            text, background = colours(page, selector)
            assert (background > text) == (scheme == "light")
            assert abs(background - text) > 0.6
        draw(page, "7")
        page.evaluate(SETTLED)
        picture = page.screenshot(path=tmp_path / "report.png", full_page=True)  # to look at
        panel = page.locator("#draw").screenshot(path=tmp_path / "draw.png")
    assert len(picture) > len(panel) > 5_000
