"""Where the head runs, and that it sees the places it is asked for."""

import pytest

from tests.families import FAMILIES, build
from vlora.cli.sentences import describe_head
from vlora.models.backbone.head import head_use
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.recipe.schema import ModelSection


@pytest.mark.parametrize("family", ["idefics3", "dots_ocr", "molmo"])
def test_a_head_that_falls_back_says_so(family: str) -> None:
    """A family whose head cannot run apart from the layers says how it runs, and why."""
    backbone, _ = prepare(build(FAMILIES[family]), describe_family(family), ModelSection(path=family))
    assert "at all supervised tokens of a batch at once" in (describe_head(head_use(backbone.head)) or "")
    backbone.head = None
    assert "at all tokens" in (describe_head(head_use(backbone.head)) or "")
