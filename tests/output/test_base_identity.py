"""Which model may take the place of the one that an adapter was trained on."""

import attrs
import pytest

from vlora.errors import CheckpointError
from vlora.output.base_identity import BaseIdentity, check_base

BASE = BaseIdentity(
    path="some/model",
    revision="0123456789abcdef",
    model_type="qwen3_vl",
    architecture="aa",
    summary="1.15M parameters in 71 arrays",
    precision="bfloat16",
    weights="feedbeef00",
)
OTHER = "'an/other'"


def test_records_come_back() -> None:
    """What was dumped is loaded; what other programs write under the key is not understood, and no error."""
    assert BaseIdentity.loads(BASE.dumps()) == BASE
    assert BaseIdentity.load({"model": "x"}) is None
    assert BaseIdentity.loads("[]") is BaseIdentity.loads("{") is BaseIdentity.loads(None) is None


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, "same"),
        ({"path": "a/copy", "revision": None}, "same"),
        ({"weights": None}, "same"),
        ({"weights": "0"}, "weights"),
        ({"precision": "4 bits (affine, groups of 64)"}, "weights"),
        ({"architecture": "bb", "weights": "0"}, "architecture"),
        ({"model_type": "qwen2_vl"}, "architecture"),
    ],
)
def test_differences(changes: dict[str, str | None], difference: str) -> None:
    """Where a model is from does not matter, what it is does."""
    assert BASE.compare(attrs.evolve(BASE, **changes)) == difference  # type: ignore[arg-type]


@pytest.mark.parametrize("is_strict", [False, True])
def test_both_are_named(is_strict: bool) -> None:
    """Other weights load with a line that names both models, or are refused in it; another architecture always is."""
    quantized = attrs.evolve(BASE, path="an/other", precision="4 bits", weights="cafe")
    larger = attrs.evolve(BASE, path="an/other", architecture="bb")

    assert check_base(BASE, BASE, "a.safetensors", is_strict=is_strict) is None
    with pytest.raises(
        CheckpointError, match=r"^model\.path: a\.safetensors was .*'some/model' at 01234567 .*'an/other' .*names or sh"
    ):
        check_base(BASE, larger, "a.safetensors", is_strict=is_strict)
    for recorded in (BASE, None):
        if is_strict:
            with pytest.raises(CheckpointError, match=r"some/model.*'an/other'.*; model\.strict_base = true refuses"):
                check_base(recorded, quantized, "a.safetensors", is_strict=True, older="some/model")
        else:
            line = check_base(recorded, quantized, "a.safetensors", is_strict=False, older="some/model")

            assert line is not None
            assert "some/model" in line
            assert OTHER in line
            assert "\n" not in line
