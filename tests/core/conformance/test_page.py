"""The HTML report in a real browser: readable, offline, light and dark, on a desk and on a telephone."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from hardpoint.conformance.files import write_page
from hardpoint.conformance.page import render
from hardpoint.conformance.results import Report, Status
from support.browser import Browser
from support.reports import one_of_each, report, result

LONG = "expected-" + "x" * 300
STATUSES = """Object.fromEntries([...document.querySelectorAll('tr.law')].map(
    law => [law.id, [law.querySelector('.status').innerText, law.querySelector('.reason')?.innerText ?? '']]))"""
SHOWN = "[...document.querySelectorAll('tr.law')].filter(law => law.getClientRects().length).map(law => law.id)"
BARS = """[...document.querySelectorAll('.row')].map(row => [row.querySelector('a').innerText,
    row.querySelector('.bar').getBoundingClientRect().width, row.querySelectorAll('.bar i').length])"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def page(made: Report, folder: Path) -> Path:
    write_page(made, folder / "report.html")
    return folder / "report.html"


def size(png: bytes) -> tuple[int, int]:
    """Width and height as the file's header has them."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def hard() -> Report:
    """One of each status, with the longest words that a backend may come up with, and markup in them."""
    made = one_of_each()
    odd = replace(
        made.results[1],
        reason=f"{LONG} <script>console.error('injected')</script>",
        traceback="Traceback\n  " + LONG,
        printed="<b>bold</b>\n",
    )
    return replace(made, results=(made.results[0], odd, *made.results[2:]), problems=(LONG,))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_it_loads_alone_without_a_complaint_and_nothing_runs_over_the_edge(
    browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    path = page(hard(), tmp_path)
    seen = browser.open(path, width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert seen.complaints == []
    assert seen.requests == [path.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    taken = size(browser.screenshot(tmp_path / "report.png"))
    assert taken[0] == width and taken[1] > 900
    red, green, blue = (int(part) for part in re.findall(r"\d+", browser.evaluate(BACKGROUND))[:3])
    assert (red + green + blue < 200) is dark


def test_the_browser_would_tell(browser: Browser, tmp_path: Path) -> None:
    odd = tmp_path / "odd.html"
    odd.write_text(
        "<body style='width:3000px'><img src='http://nowhere.invalid/a.png'>"
        "<script>console.error('one'); throw new Error('two')</script>"
    )
    seen = browser.open(odd)
    said = " ".join(seen.complaints)
    assert "one" in said and "two" in said
    assert "http://nowhere.invalid/a.png" in seen.requests
    assert browser.evaluate("document.documentElement.scrollWidth") > 1280


def test_every_law_is_there_with_its_status_and_reason(browser: Browser, tmp_path: Path) -> None:
    made = one_of_each()
    browser.open(page(made, tmp_path))
    shown = browser.evaluate(STATUSES)
    assert shown == {entry.id: [entry.status.value, entry.reason] for entry in made.results}
    text = browser.evaluate("document.body.innerText")
    assert "Breaks 1 law" in text
    assert made.results[1].rerun in text
    for fact in ("acme:0, 16.0 GiB", "torch 2.13.0", "seed", "2026-01-02 03:04:05 UTC"):
        assert fact.casefold() in text.casefold()


def test_the_chart_has_a_bar_for_every_part_as_long_as_the_part(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(one_of_each(), tmp_path))
    bars = {part: (width, pieces) for part, width, pieces in browser.evaluate(BARS)}
    assert list(bars) == ["device", "streams", "graphs"]
    assert [pieces for _, pieces in bars.values()] == [2, 2, 1]
    assert bars["device"][0] == pytest.approx(2 * bars["graphs"][0], rel=0.01)


def test_filters_and_search_show_what_was_asked_for(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(one_of_each(), tmp_path))
    everything = browser.evaluate(SHOWN)
    assert len(everything) == 5
    browser.evaluate("document.querySelector('button[data-status=failed]').click()")
    assert browser.evaluate(SHOWN) == ["device.b-fails"]
    assert browser.evaluate("document.querySelectorAll('section.part:not([hidden])').length") == 1
    search = (
        "(text => { const i = document.querySelector('input'); i.value = text; i.dispatchEvent(new Event('input')) })"
    )
    browser.evaluate(f"{search}('graphs')")
    assert browser.evaluate(SHOWN) == []
    assert browser.evaluate("document.querySelector('.nothing').hidden") is False
    browser.evaluate("document.querySelector('.failures a').click()")
    assert browser.evaluate(SHOWN) == everything


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (report(result("device.a")), "✓ Keeps every law that is due"),
        (report(result("device.a"), complete=False), "a selection, not the whole kit"),
        (report(result("device.a"), result("device.b", Status.KNOWN_FAILURE)), "✓ No new failure"),
        (report(result("device.a", Status.FAILED), result("device.b", Status.FAILED)), "✗ Breaks 2 laws"),
        (report(result("device.a"), problems=("x",)), "✗ The run has a problem"),
        (report(result("device.a", Status.FAILED), name="", problems=("x",)), "✗ The backend cannot be built"),
    ],
)
def test_the_verdict_is_one_sentence_at_the_top(made: Report, verdict: str) -> None:
    text = render(made)
    assert verdict in re.sub(r"<[^>]+>", "", text[text.index('role="status"') :].partition("</div>")[0])


def test_the_page_names_no_address_outside() -> None:
    assert re.findall(r"""(?:https?|ftp|wss?)://|(?:src|href|url)\W{1,3}//|@import""", render(hard())) == []
