"""What a run may take of the machine."""

import pytest

from vlora.errors import RecipeError
from vlora.output.resume import RESUME_MUTABLE_KEYS
from vlora.recipe.parse import all_keys, parse_recipe


def test_what_a_run_may_take_changes_nothing_that_it_learns() -> None:
    """A run may go on with other limits."""
    keys = {key for key in all_keys() if key.startswith(("features.", "memory."))}

    assert len(keys) == 8
    assert keys <= RESUME_MUTABLE_KEYS


@pytest.mark.parametrize("key", ["memory.limit_gb", "memory.max_mb_per_buffer", "features.disk_gb"])
def test_amounts_are_none_below_zero(key: str) -> None:
    """Each says so under its own name."""
    with pytest.raises(RecipeError, match=rf"^{key}: found -1, must be "):
        parse_recipe('[data]\npath = "-"', {key: -1})
