"""HunYuan's positions are a row's own inputs, and none are left on the language model."""

import mlx.core as mx

from tests.families import FAMILIES, build, examples
from vlora.models.backbone.embed import to_device
from vlora.models.families.hunyuan import finish_hunyuan, forward_hunyuan
from vlora.models.families.registry import describe_family


def test_text_counts_along_all_axes() -> None:
    """A row without positions of its own counts its tokens along every axis."""
    module = build(FAMILIES["hunyuan_vl"])
    n_axes = len(module.config.text_config.rope_scaling["xdrope_section"])
    found = finish_hunyuan(module, mx.array([[5, 6, 7]]), {}, {})["position_ids"]

    assert found.tolist() == [[[0, 1, 2]]] * n_axes


def test_positions_are_read_and_not_kept() -> None:
    """Logits depend on the positions that are given, and what an earlier row left on the model does not count."""
    module = build(FAMILIES["hunyuan_vl"])
    module.eval()
    example = examples(FAMILIES["hunyuan_vl"])[1]
    inputs = {name: to_device(value) for name, value in example.inputs.items()}
    tokens = mx.array(example.tokens)[None]
    embedded = describe_family("hunyuan_vl").forward.embed(module, tokens, inputs)
    fields = finish_hunyuan(module, tokens, inputs, embedded)
    before = forward_hunyuan(module, tokens, fields)
    module.language_model._position_ids = mx.zeros((1, 4, 3), mx.int32)
    again = forward_hunyuan(module, tokens, fields)
    other = forward_hunyuan(module, tokens, {**fields, "position_ids": 2 * fields["position_ids"]})

    assert mx.array_equal(before, again)
    assert not mx.allclose(before, other, atol=1e-3)
    assert module.language_model._position_ids is None
