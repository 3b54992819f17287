"""One row is embedded alone; its key says all that its inputs depend on."""

import attrs
import numpy as np
import pytest

from tests.families import FAMILIES, build, examples
from vlora.errors import BatchError
from vlora.models.backbone.embed import embed_row, row_key
from vlora.models.families.registry import describe_family


def test_a_row_is_kept_under_all_that_it_depends_on() -> None:
    """Its tokens, its answers, its images and their order."""
    row = attrs.evolve(examples(FAMILIES["llava"])[0], image_keys=("a", "b"))
    others = (
        attrs.evolve(row, tokens=row.tokens + 1),
        attrs.evolve(row, supervised=~row.supervised),
        attrs.evolve(row, image_keys=("b", "a")),
    )

    assert row_key(row) == row_key(attrs.evolve(row, source="elsewhere"))
    assert len({row_key(row), *map(row_key, others)}) == 1 + len(others)


def test_too_few_image_tokens_name_the_row() -> None:
    """The error says which row's images cannot be placed."""
    row = examples(FAMILIES["llava"])[0]
    module = build(FAMILIES["llava"])
    is_image = row.tokens == module.config.image_token_index
    assert is_image.any()
    short = attrs.evolve(row, source="row 7", tokens=np.where(is_image, 1, row.tokens))
    family = describe_family("llava")
    with family.forward.embed_overrides(module), pytest.raises(BatchError, match="row 7: the model cannot place"):
        embed_row(module, family, short)
