"""Secrets and overlong words removed from texts of messages. Pure.

Rows, recipes and the errors of libraries contain signed addresses, tokens and whole pictures in base64. None of these
belongs on a screen or in a log. Every `VloraError` passes through here.
"""

import re

LONGEST_LINE = 4_000
"""Characters of one line of a message; a longer line loses its middle."""

LONGEST_WORD = 1_000
"""Characters without a space; a path may have hundreds, a picture in base64 has more."""

HIDDEN = "***"
ENDS = ",;:.!)]}"
"""Punctuation that ends a sentence or begins a reason; it does not belong to the address or word before it."""

_END = re.escape(ENDS)

_URL = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)"
    r"(?:(?P<user>[^\s/?#@'\"<>]*)@)?"
    r"(?P<place>[^\s?#'\"<>]*)"
    rf"(?P<query>\?(?:[^\s#'\"<>]*[^\s#'\"<>{_END}])?)?"
    rf"(?P<fragment>#(?:[^\s'\"<>]*[^\s'\"<>{_END}])?)?",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{8,}|(?:api_org_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA|ASIA|AIza|eyJ[\w-]{8,}\.)"
    r"(?=[\w.-]*\d)[\w.-]{12,})"
)
"""How access tokens of Hugging Face, GitHub, GitLab, OpenAI, Slack, AWS and Google begin, and JSON Web Tokens."""
_BEARER = re.compile(r"\b(?P<kind>bearer|basic)\s+(?=\S*[\d=])[\w.~+/=-]{12,}", re.IGNORECASE)
_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def redact(text: str) -> str:
    """Hide secrets in a message, and shorten long words and lines.

    The user, query and fragment of an address are hidden: signed addresses carry their signature there. Redacting
    twice changes nothing.

    Args:
        text: A message; its lines stay lines.
    """
    # Long words first, so that little is searched; long lines last, since the mark may be longer than the secret.
    text = _WORD.sub(_shorten_word, text)
    text = _URL.sub(_hide_in_url, text)
    text = _BEARER.sub(rf"\g<kind> {HIDDEN}", _TOKEN.sub(HIDDEN, text))
    return "\n".join(_shorten_line(line) for line in text.split("\n"))


def shorten_name(name: str, width: int = 300) -> str:
    """Cut the name of an image for a message; names of files are shown whole.

    Args:
        name: A path, an address, or the text that was given as one.
        width: Longest name that is left unchanged.
    """
    if len(name) <= width:
        return name
    return f"{name[:60]}... ({len(name):,} characters)"


def _hide_in_url(found: re.Match[str]) -> str:
    if found["scheme"].lower() == "file://":
        return found[0]
    user = "" if found["user"] is None else f"{HIDDEN}@"
    query = f"?{HIDDEN}" if found["query"] else ""
    fragment = f"#{HIDDEN}" if found["fragment"] else ""
    # An address may hold another one.
    place = _URL.sub(_hide_in_url, found["place"])
    return f"{found['scheme']}{user}{place}{query}{fragment}"


def _shorten_line(line: str) -> str:
    if len(line) <= LONGEST_LINE:
        return line
    # The remedy comes at the end.
    return f"{line[: LONGEST_LINE - 600]} ... {line[-500:]}"


def _shorten_word(found: re.Match[str]) -> str:
    word = found[0]
    return f"{word[:60]}...({len(word):,} characters){word[-1] if word[-1] in ENDS else ''}"
