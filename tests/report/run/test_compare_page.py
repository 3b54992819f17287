"""The page of runs beside one another reads well in a browser, with as many runs as colours and more."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.report.browser import LONGEST_WAIT_MS, find_faults, measure_charts
from tests.report.run.test_run_page import make_run
from vlora.report.run.compare_page import make_comparison_page
from vlora.report.run.comparison import compare_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NOW = datetime(2026, 11, 29, 12, 30, tzinfo=UTC)


HOSTILE = (
    "</style><img src=x onerror=alert(1)><script>document.title = 'taken'</script>",
    "\u202egnp.exe\u202c and \u2066on\u2069",
    "עברית (then) العربية 3.5%",
    "w" * 3_000,
    "a long text. " * 8_000,
)


def test_hostile_recipes_are_text(browser: "Browser", tmp_path: Path) -> None:
    """Markup, other directions, endless words and 100 kB, side by side; the page stays small and reads well."""
    places = [tmp_path / f"run {number}" for number in range(len(HOSTILE))]
    for place, text in zip(places, HOSTILE, strict=True):
        make_run(place, 100, **{"data.system": text})
    path = tmp_path / "out.html"
    path.write_text(make_comparison_page(compare_runs(places), NOW), encoding="utf-8")

    assert find_faults(browser, path, pictures=0) == []
    assert path.stat().st_size < 1_000_000
    shown = browser.new_page()
    shown.goto(path.as_uri(), timeout=LONGEST_WAIT_MS)
    assert shown.title() == f"{len(HOSTILE)} runs compared"
    assert not shown.query_selector_all("script, [onerror], main img")
    assert HOSTILE[2] in shown.inner_text("main")
    shown.close()


@pytest.mark.parametrize("n_runs", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_in_a_browser(n_runs: int, browser: "Browser", tmp_path: Path) -> None:
    """Names that look like markup are text; wide tables scroll by themselves."""
    places = [tmp_path / f"<b>run & {number}" for number in range(n_runs)]
    for number, place in enumerate(places):
        make_run(place, 100 + 50 * number, **{"data.system": "<script>alert(1)</script>" * number or "-"})
    path = tmp_path / "out.html"
    path.write_text(make_comparison_page(compare_runs(places), NOW), encoding="utf-8")

    assert find_faults(browser, path, pictures=0) == []
    assert 0.95 < measure_charts(browser, path, 1280) <= 1
    shown = browser.new_page()
    shown.goto(path.as_uri(), timeout=LONGEST_WAIT_MS)
    assert shown.title() == f"{n_runs} runs compared"
    assert not shown.query_selector_all("script, main b")
    assert shown.inner_text("li strong") == "<b>run & 0"
    assert shown.locator("strong.good").count() > 3
    shown.close()
