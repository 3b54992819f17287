"""Models whose trained weights a state holds: what they would give is refused, until they have them again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import vlora
from tests.runs import make_recipe
from tests.training import picture
from vlora.errors import UnboundError
from vlora.output.checkpoint import save_adapter

ROWS = [{"image": picture(32, 32, number), "question": "What?", "answer": str(number)} for number in range(2)]


@pytest.mark.parametrize("full", [False, True])
def test_a_model_without_its_weights_is_not_asked(
    full: bool, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Cells run in another order: not the base's answers, nor a state of zeros, but a sentence that says what to do."""
    recipe = make_recipe(checkpoint("qwen3_vl"), tmp_path / "rows", tmp_path / "out", model__full_finetune=full)
    data = vlora.load_data(recipe, ROWS)
    backbone, config = vlora.load_model(recipe, data.files)
    optimizer = vlora.make_optimizer(recipe.optim)
    state = vlora.init_state(backbone, optimizer)
    vlora.unbind(backbone)
    slips: dict[str, Callable[[], Any]] = {
        "init_state": lambda: vlora.init_state(backbone, optimizer),
        "answer": lambda: vlora.answer(backbone, data.encoder, data.train[0], max_new_tokens=1),
        "predict": lambda: list(vlora.predict(backbone, data.encoder, data.train)),
    }
    for name, call in slips.items():
        with pytest.raises(UnboundError, match=f"^{name}: unbind has taken .* bind"):
            call()
    vlora.bind(backbone, state)

    assert isinstance(slips["answer"](), str)
    assert all(bool(mx.array_equal(value, state.params[name])) for name, value in slips["init_state"]().params.items())
    if not full:
        vlora.unbind(backbone)
        save_adapter(tmp_path / "saved" / "adapters.safetensors", state.params, config)
        vlora.load_adapter(backbone, tmp_path / "saved")

        assert isinstance(slips["answer"](), str)
