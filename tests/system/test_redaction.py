"""Messages without secrets and without end."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vlora.errors import CheckpointError, ModelError, OutOfMemoryError, RecipeError, SampleError, VloraError
from vlora.system.redaction import LONGEST_LINE, redact, shorten_name

SECRETS = [
    ("https://a.org/cat.png?X-Amz-Signature=5ec12e7", "https://a.org/cat.png?***"),
    ("https://a.org/?sig=5ec12e7#frag5ec12e7", "https://a.org/?***#***"),
    ("http://user:5ec12e7@a.org/cat.png", "http://***@a.org/cat.png"),
    ("s3://5ec12e7@bucket/cat.png", "s3://***@bucket/cat.png"),
    ("http://web.archive.org/x/http://u:5ec12e7@a.org/b?c=5ec12e7", "http://web.archive.org/x/http://***@a.org/b?***"),
    ("HTTPS://A.org/b?k=5ec12e7", "HTTPS://A.org/b?***"),
    ("https://hf.co/hf_5ec12e7AbCdEfGhIjKl/x.png", "https://hf.co/***/x.png"),
    ("authorization: Bearer 5ec12e75ec12e7", "authorization: Bearer ***"),
    ("token ghp_5ec12e75ec12e75ec12e7", "token ***"),
    ("eyJhbGciOiJIUzI1NiJ9.5ec12e75ec12e7.5ec12e7", "***"),
]


@pytest.mark.parametrize(("text", "expected"), SECRETS)
@pytest.mark.parametrize("around", ["{}", "row 3: cannot read {}, see there", "found '{}'", "<{}>", "a\n{}\nb"])
def test_secrets_are_hidden(text: str, expected: str, around: str) -> None:
    """Users, queries and fragments of addresses are hidden, and tokens wherever they stand; the rest stays."""
    assert redact(around.format(text)) == around.format(expected)


@pytest.mark.parametrize(
    "text",
    [
        "rows.jsonl train row 3: cannot read the image /a/b?c=d#e@f.png: No such file or directory",
        "https://example.com/a/b.png",
        "file:///home/a?b#c.png",
        "mail somebody@example.com or ask sk-learn",
        "lora.targets: found 're:.*basic layers.*'; did you mean '...'?",
        "basic understanding of things",
        "sk-learn-style-estimators of eyJ and hf_hub",
        "C://a path, http://example.org/b",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Paths, plain addresses and sentences are left as they are."""
    assert redact(text) == text


@pytest.mark.parametrize("kind", [VloraError, RecipeError, SampleError, ModelError, CheckpointError])
def test_every_error_is_redacted(kind: type[VloraError]) -> None:
    """No error of vlora's says a secret or a picture."""
    assert str(kind("https://a.org/b?c=5ec12e7")) == "https://a.org/b?***"
    found = str(kind("found " + "iVBORw0K" * 10**4 + "; do this"))
    assert len(found) < 200
    assert found.endswith("; do this")


def test_out_of_memory_is_redacted() -> None:
    """An error that makes its message itself is redacted too."""
    assert "5ec12e7" not in str(OutOfMemoryError("https://a.org/b?c=5ec12e7", "no memory"))


def test_long_messages_keep_both_ends() -> None:
    """A line without end keeps its beginning and what is to be done; each line is a line of its own."""
    found = redact("\n".join(["row 3: " + "very " * 10**5 + "long; mend it"] * 2))

    assert len(found) < 2 * LONGEST_LINE + 2
    for line in found.split("\n"):
        assert line.startswith("row 3: very")
        assert line.endswith("long; mend it")


@given(
    st.text()
    | st.text("htps:/?#@a.=\n -", max_size=80)
    | st.builds(str.__mul__, st.text(min_size=1), st.integers(0, 3))
)
@example("a?b#c://d@e?f" * 500)
@example("x" * 5000 + ", " + "y z" * 2000)
def test_redacting_twice_changes_nothing(text: str) -> None:
    """A message that holds another one's text is not mangled."""
    assert redact(redact(text)) == redact(text)


@given(st.text(max_size=10_000))
def test_names_are_short(name: str) -> None:
    """A name is shown whole, or as its beginning and its length."""
    shown = shorten_name(name)

    assert shown == name or (shown.startswith(name[:60]) and len(shown) < 100 < len(name))
