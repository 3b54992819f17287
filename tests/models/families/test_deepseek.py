"""DeepSeek-VL2's latent attention is corrected once it is loaded; tests/golden compares what it computes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
from mlx import nn

from tests.arrays import load_arrays
from tests.checkpoints import FAMILIES as CHECKPOINTS
from tests.checkpoints.layout import make_config, make_model
from tests.families import FAMILIES, build, embed_row, examples
from vlora import models
from vlora.errors import ModelError
from vlora.models.families.deepseek import fix_deepseek, fix_multi_modality
from vlora.models.families.registry import describe_family
from vlora.recipe.schema import ModelSection


def attentions(module: nn.Module) -> list[Any]:
    return [layer.self_attn for layer in module.language_model.model.layers]


def make(**changes: Any) -> nn.Module:
    """Make the family's model, its language model described otherwise."""
    config = make_config(CHECKPOINTS["deepseek_vl_v2"])
    return make_model(config | {"language_config": config["language_config"] | changes})


def test_loading_corrects_latent_attention(checkpoint: Callable[[str], Path]) -> None:
    """Pairs to rotate lie side by side, and the latents' norms have the published epsilon."""
    section = ModelSection(path=str(checkpoint("deepseek_vl_v2")))
    backbone, _ = models.load_backbone(models.find_model(section), section)
    uncorrected = attentions(mlx_vlm.utils.load_model(Path(section.path)))
    pairs = mx.array(np.random.default_rng(0).standard_normal((1, 1, 5, 8)).astype(np.float32))
    angles = np.arange(5)[:, None] * 10000.0 ** -(np.arange(4) / 4)
    first, second = np.array(pairs)[..., 0::2], np.array(pairs)[..., 1::2]
    turned = np.stack(
        [first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)], axis=-1
    )
    for attention, other in zip(attentions(backbone.module), uncorrected, strict=True):
        assert attention.kv_a_layernorm.eps == 1e-6 != other.kv_a_layernorm.eps
        np.testing.assert_allclose(np.array(attention.rope(pairs)), turned.reshape(1, 1, 5, 8), atol=1e-5)
        assert not np.allclose(np.array(other.rope(pairs)), turned.reshape(1, 1, 5, 8), atol=1e-2)


def test_queries_with_latents_too() -> None:
    """Larger models have latents of queries, whose norm has the same epsilon."""
    module = make(q_lora_rank=32)
    fix_deepseek(module)
    assert {attention.q_a_layernorm.eps for attention in attentions(module)} == {1e-6}


def test_the_smallest_model_is_a_llama() -> None:
    """Without latents nothing is changed."""
    module = make(use_mla=False, qk_nope_head_dim=0, qk_rope_head_dim=0, kv_lora_rank=None)
    fix_deepseek(module)
    assert not any(attention.rope.traditional for attention in attentions(module))


def test_other_ways_to_choose_are_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The largest model corrects the choice of its experts, which mlx-vlm leaves out."""
    for file in checkpoint("deepseek_vl_v2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["language_config"] |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_arrays(tmp_path / "model.safetensors")
    weights["language.model.layers.1.mlp.gate.e_score_correction_bias"] = mx.zeros(4)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    section = ModelSection(path=str(tmp_path))
    with pytest.raises(ModelError, match=r"chosen by 'noaux_tc'.*only models that choose greedily"):
        models.load_backbone(models.find_model(section), section)


def test_answers_of_unlimited_ocr_see_what_they_see_when_they_are_generated() -> None:
    """The logits of a long answer, all at once, are those of mlx-vlm's generation, token by token from a cache."""
    module = build(FAMILIES["unlimited_ocr"])
    module.eval()
    family = describe_family("unlimited_ocr")
    example = examples(FAMILIES["unlimited_ocr"])[1]
    tokens = mx.array(example.tokens)[None]
    embeds = embed_row("unlimited_ocr", module, 1)
    first = int(np.flatnonzero(example.supervised)[0])
    cache = module.make_cache()
    generated = [module.language_model(tokens[:, :first], inputs_embeds=embeds[:, :first], cache=cache).logits[0, -1]]
    for place in range(first, tokens.shape[1]):
        step = slice(place, place + 1)
        output = module.language_model(tokens[:, step], inputs_embeds=embeds[:, step], cache=cache)
        generated.append(output.logits[0, -1])
    inputs = {"inputs_embeds": embeds, **family.forward.label_inputs(example)}
    trained = family.forward.forward(module, tokens, inputs)[0, first - 1 :]
    causal = module.language_model(tokens, inputs_embeds=embeds).logits[0, first - 1 :]

    assert example.supervised.sum() > 2 * module.config.text_config.sliding_window_size
    assert np.allclose(np.array(trained), np.array(mx.stack(generated)), atol=1e-4)
    assert not np.allclose(np.array(causal), np.array(mx.stack(generated)), atol=1e-2)


@pytest.mark.parametrize("name", ["deepseekocr", "deepseekocr_2"])
def test_one_image_in_a_row(name: str) -> None:
    """A second image in a row is an error, not features in the wrong places."""
    views = [mx.zeros((1, 3, 8, 8)), mx.zeros((2, 3, 8, 8))]
    with pytest.raises(ValueError, match="2 images"):
        describe_family(name).forward.embed(nn.Module(), mx.array([[1]]), {"pixel_values": views})


def test_the_tower_of_janus_has_timms_norms_and_the_exact_gelu() -> None:
    """Its layers compute what timm's do, of which the published tower is made."""
    module = build(FAMILIES["multi_modality"])
    tower = module.vision_model.vision_tower
    pixels = mx.random.normal((1, 16, 16, 3), key=mx.random.key(0)) * 0.01
    before = tower(pixels)[0]
    fix_multi_modality(module)
    norms = [tower.norm, *(norm for block in tower.blocks for norm in (block.norm1, block.norm2))]
    values = mx.linspace(-3, 3, 20)

    assert {norm.eps for norm in norms} == {1e-6}
    assert all(mx.array_equal(block.mlp.activation_fn(values), nn.gelu(values)) for block in tower.blocks)
    assert not np.allclose(np.array(tower(pixels)[0]), np.array(before), atol=1e-5)
