"""Families whose prompts are answered together only where they are of one length."""

import attrs
import pytest

from vlora.models.families.family import Family
from vlora.models.families.recurrent import FAMILIES
from vlora.models.families.registry import describe_family


@pytest.mark.parametrize("name", FAMILIES)
def test_they_differ_in_how_they_answer_only(name: str) -> None:
    """Their prompts are of equal length, with a reason that is given; all else is as of a family without a file."""
    forward = FAMILIES[name].forward

    assert describe_family(name).forward.reading == "equal"
    assert forward.equal_prompts
    assert attrs.evolve(FAMILIES[name], forward=attrs.evolve(forward, equal_prompts=None)) == Family()
