"""Pages hold what is hostile as text, are whole, and read well in a browser."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from tests.report.browser import LONGEST_WAIT_MS, find_faults
from tests.training import picture
from vlora.report import page
from vlora.report.pictures import make_picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = (
    "<script>document.title = 'taken'; fetch('https://example.org')</script>",
    "</style><img src=x onerror=alert(1)>",
    "\u202egnp.exe\u202c and \u2066on\u2069",
    "עברית (then) العربية 3.5%",
    "null\0, bell\a, escape\x1b[31m, next line\x85, a half \ud83d",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \" ' `",
    "w" * 3_000,
    "a long text. " * 8_000,
    "",
)
TEMPLATE = """{% extends "base.html.j2" %}
{% import "macros.html.j2" as house %}
{% block title %}{{ texts[0] }}{% endblock %}
{% block lead %}{{ house.words(texts[2]) }}{% endblock %}
{% block content %}
{{ house.facts([("rows", 3), (texts[1], texts[3])]) }}
{% for text in texts %}<section class="card"><h2>{{ house.words(text[:80]) }}</h2>{{ house.passage(text) }}</section>
{% endfor %}
<div class="pictures">{% for shown in pictures %}{{ house.picture(shown, texts[1]) }}{% endfor %}</div>
{% call house.scroll(texts[0]) %}
<table><tr>{% for number in range(60) %}<td>{{ number }}0000</td>{% endfor %}</tr></table>
{% endcall %}
{% endblock %}
"""


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with the house's templates, and one that tests them."""
    folder = tmp_path / "templates"
    folder.mkdir()
    for file in page.TEMPLATES.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "hostile.html.j2").write_text(TEMPLATE)
    monkeypatch.setattr(page, "TEMPLATES", folder)
    page._environment.cache_clear()
    return folder


def hostile_page(templates: Path) -> Path:
    """Write a page full of them."""
    pictures = [make_picture(picture(*size, 3), about=HOSTILE[1]) for size in ((40, 30), (1200, 700), (3, 900))]
    path = templates.parent / "page.html"
    path.write_text(page.render("hostile.html.j2", texts=HOSTILE, pictures=pictures), encoding="utf-8")
    return path


def test_a_hostile_page(templates: Path, browser: "Browser") -> None:
    """Scripts, markup, directions, control characters and endless words are text in a page that reads well."""
    path = hostile_page(templates)

    assert not find_faults(browser, path, pictures=3)
    shown = browser.new_page()
    shown.goto(path.as_uri(), timeout=LONGEST_WAIT_MS)
    assert shown.title() == HOSTILE[0]
    assert shown.inner_text(".card:nth-of-type(1) .passage") == HOSTILE[0]
    assert shown.inner_text(".card:nth-of-type(3) .passage") == "⟨U+202E⟩gnp.exe⟨U+202C⟩ and ⟨U+2066⟩on⟨U+2069⟩"
    assert "null⟨U+0000⟩, bell⟨U+0007⟩, escape⟨U+001B⟩[31m, next line⟨U+0085⟩, a half ⟨U+D83D⟩" in shown.content()
    assert not shown.query_selector_all("script, [onerror], main b")
    shown.close()


def test_texts_are_folded_and_cut(templates: Path) -> None:
    """Of a text of 100 kB a beginning is seen, some is folded, and the number of the rest is said."""
    text = hostile_page(templates).read_text(encoding="utf-8")

    assert "the other 103,400 characters" in text
    assert "84,000 further characters are not on this page" in text
    assert len(text) < 200_000


def test_a_page_asks_for_nothing(templates: Path) -> None:
    """Its policy allows pictures of its own and the one style that it has."""
    text = hostile_page(templates).read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)">', text)

    assert policy.startswith("default-src &#39;none&#39;; img-src data:; style-src &#39;sha256-")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)


def test_values_have_to_be_there(templates: Path) -> None:
    """A name that a template misspells is an error, and no empty place."""
    (templates / "wrong.html.j2").write_text("{{ nowhere }}")

    with pytest.raises(Exception, match="'nowhere' is undefined"):
        page.render("wrong.html.j2")


def test_markup_is_html(templates: Path) -> None:
    """What the package makes, such as charts, is not escaped."""
    (templates / "chart.html.j2").write_text("{{ chart }}|{{ text }}")

    assert page.render("chart.html.j2", chart=Markup("<svg></svg>"), text="<svg>") == "<svg></svg>|&lt;svg&gt;"


@given(st.text())
def test_all_is_visible(text: str) -> None:
    """Nothing is left that moves other characters or cannot be written; what is seen stays."""
    shown = page.visible(text)

    assert not page._UNSEEN.search(shown)
    shown.encode("utf-8")
    assert len(shown) >= len(text)
    assert page.visible(shown) == shown


def test_no_template_trusts_values() -> None:
    """No template switches the escaping off, and none has a script or a style of its own in the middle."""
    for file in page.TEMPLATES.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|<script|\sstyle=|\son\w+=|https?:", text), file.name
