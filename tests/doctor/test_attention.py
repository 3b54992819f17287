"""The checks of attention find what is wrong."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.checking import outcome_of
from vlora.doctor import attention
from vlora.ops import functional


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
