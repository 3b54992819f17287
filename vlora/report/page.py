"""Renders pages as single HTML files without scripts or requests; contents of rows are always escaped.

Templates lie in `templates/`. Each extends `base.html.j2`; `macros.html.j2` has what they share.
"""

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
BASE_STYLE = "base.css"

GENERATOR = '<meta name="generator" content="vlora">'
"""The head of every page."""

FOLDED_FROM = 1_500
"""Longest text that is shown completely; of a longer one only the beginning is, and the rest is folded."""
OPEN_PART = 600
"""Length of that beginning in characters."""
MOST_CHARACTERS = 20_000
"""Most characters of a text in a page, so that a page of fifty very long rows stays below 5 MB."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters, characters that change the direction of text or have no width, and lone surrogates."""


def render(template: str, *styles: str, **values: Any) -> str:
    """Make a page.

    Args:
        template: Its file in `templates/`.
        styles: Files of `templates/` with the rules of its own, after those of all pages.
        values: The template's variables. Strings are escaped; only `Markup` is HTML.

    Returns:
        The document, which UTF-8 can encode.
    """
    style = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in (BASE_STYLE, *styles))
    digest = base64.b64encode(hashlib.sha256(f"\n{style}\n".encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return _environment().get_template(template).render(values, style=Markup(style), policy=policy)  # noqa: S704 - ours


def is_page(text: str) -> bool:
    """Whether a text is, or begins, a page that `render` has made."""
    return text.startswith("<!DOCTYPE html>") and GENERATOR in text


def visible(text: str) -> str:
    r"""Replace invisible characters, and those that reorder text, by their code points. Pure.

    >>> visible("a\x00b\u202ec")
    'a⟨U+0000⟩b⟨U+202E⟩c'
    """
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.globals.update(FOLDED_FROM=FOLDED_FROM, OPEN_PART=OPEN_PART, MOST_CHARACTERS=MOST_CHARACTERS)
    environment.filters["count"] = "{:,}".format
    return environment
