"""The calls that every family answers: a row embedded alone, and the language model run."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from vlora.models.forward.calls import call_language_model, embed_alone


class Model:
    """A model that notes what it is called with, and returns some of it."""

    def __init__(self, held: mx.array | None = None, returned: dict[str, Any] | None = None) -> None:
        self.language_model = self
        self.returned = returned or {}
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        if held is not None:
            self._position_ids = held

    def get_input_embeddings(self, *given: Any, **named: Any) -> Any:
        """Note the call."""
        self.calls.append((given, named))
        return SimpleNamespace(to_dict=lambda: self.returned)

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Note the call."""
        self.calls.append((given, named))
        return SimpleNamespace(logits=mx.zeros((1, 2, 3)))


def test_a_row_is_embedded_with_its_pixels_and_a_whole_mask() -> None:
    """Pixels come behind the tokens, other outputs by name, all tokens seen; what is None is left out."""
    model = Model(returned={"inputs_embeds": mx.ones((1, 2, 4)), "nothing": None})
    fields = embed_alone(model, mx.array([[1, 2]]), {"pixel_values": mx.ones(3), "grid": "g"})
    (tokens, pixels), named = model.calls[0]

    assert list(fields) == ["inputs_embeds"]
    assert (tokens.tolist(), pixels.tolist(), named["grid"]) == ([[1, 2]], [1, 1, 1], "g")
    assert named["mask"].tolist() == [[1, 1]]


@pytest.mark.parametrize("own", [None, mx.array([[7]])])
def test_positions_left_on_the_model_are_the_rows(own: mx.array | None) -> None:
    """They count where the model does not return positions, and only there."""
    held = mx.array([[3]])
    fields = embed_alone(Model(held, {"position_ids": own}), mx.array([[1]]), {})

    assert fields["position_ids"].tolist() == (held if own is None else own).tolist()


def test_the_language_model_is_called_without_mask_and_cache_unless_given() -> None:
    """The ids come first, under whatever name; a mask of the row's own replaces none."""
    model = Model()
    call_language_model(model, mx.array([[1, 2]]), {"inputs_embeds": mx.ones((1, 2, 4))})
    call_language_model(model, mx.array([[1, 2]]), {"mask": "own"})

    assert [named["mask"] for _, named in model.calls] == [None, "own"]
    assert [named["cache"] for _, named in model.calls] == [None, None]
    assert [given[0].tolist() for given, _ in model.calls] == [[[1, 2]]] * 2
