"""Numbers with what they count."""

import re
from pathlib import Path

import pytest

import vlora
from vlora.system.nouns import with_noun

PLURAL = re.compile(
    r"\{(?P<number>[^{}]+)\} (?:\w+ )?"
    r"(?:layers|rows|files|arrays|tensors|images|steps|tokens|questions|checks|reasons|bytes|kernels|places|lines)\b(?!/)"
)
"""A number and its noun, as an f-string would write them of any number."""

NEVER_ONE = ("MOST_ROWS", "len(parsed.recipes)", "event.n_traces", "event.n_stale")
"""Numbers that are more than one where they are written."""


@pytest.mark.parametrize(("number", "written"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1497, "1,497 rows")])
def test_one_is_no_plural(number: int, written: str) -> None:
    """And thousands are set apart unless it is said otherwise."""
    assert with_noun(number, "row") == written
    assert with_noun(number, "row", commas=False) == written.replace(",", "")


@pytest.mark.parametrize("folder", ["cli", "export"])
def test_sentences_count_in_one_way(folder: str) -> None:
    """What commands and exports say of a number that may be one comes from `with_noun`."""
    package = Path(vlora.__file__).parent
    found = [
        f"{path.relative_to(package)}: {match.group()}"
        for path in sorted((package / folder).rglob("*.py"))
        for match in PLURAL.finditer(path.read_text())
        if match["number"] not in NEVER_ONE
    ]
    assert not found
