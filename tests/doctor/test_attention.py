"""The checks of attention find what is wrong."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.checking import outcome_of
from vlora.doctor import attention
from vlora.errors import CheckError
from vlora.models import attend_fused
from vlora.ops import functional
from vlora.ops.custom_vjp import custom_vjp


def test_a_mask_that_is_not_applied_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Queries that see later keys fail the check of few queries, too."""
    attend = mx.fast.scaled_dot_product_attention

    def see_all(*inputs: mx.array, scale: float, mask: Any) -> mx.array:
        del mask
        return attend(*inputs, scale=scale)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", see_all)
    for name in ("attention", "attention of few queries"):
        outcome = outcome_of(name, tmp_path / name)

        assert "the result in float32: off by" in outcome.found


@pytest.mark.parametrize("has_slow", [True, False])
def test_attention_in_passes_is_checked_where_models_get_it(
    has_slow: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where exponentials are slow, vlora's own attention is compared besides MLX's."""
    monkeypatch.setattr(attention, "has_slow_exponentials", lambda: has_slow)
    attend = functional.attend
    monkeypatch.setattr(functional, "attend", lambda *args: attend(*args) * 1.05)

    assert outcome_of("attention of few queries", tmp_path).is_ok != has_slow


def test_gradients_of_tiles_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As models get them on a card; one that comes from the wrong places is found."""
    assert attention.check_tiles(tmp_path).startswith("off by")
    own = attend_fused

    def misread(*args: Any) -> mx.array:
        @custom_vjp(keeps="inputs")
        def same(mixed: mx.array) -> mx.array:
            return mixed

        @same.vjp
        def same_vjp(_: mx.array, cotangent: mx.array) -> mx.array:
            return cotangent[:, ::-1]

        mixed: mx.array = same(own(*args))
        return mixed

    monkeypatch.setattr(attention, "attend_fused", misread)
    with pytest.raises(CheckError, match="the gradient of input 1 in bfloat16: off by"):
        attention.check_tiles(tmp_path)
