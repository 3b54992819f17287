"""A head that is the embedding is run as one; a head that differs stays."""

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
from mlx.utils import tree_flatten

from tests.models.families.test_gemma import Checkpoint, open_backbone
from vlora.models.families.registry import describe_family
from vlora.models.forward.tied_head import TiedHead


def test_head_of_gemma3_is_its_embedding(checkpoint: Checkpoint) -> None:
    """mlx-vlm holds two copies (gemma3/language.py:266), of which one training would be lost; vlora holds one."""
    loaded, _ = mlx_vlm.load(str(checkpoint("gemma3")))
    backbone = open_backbone(checkpoint("gemma3"))
    language = backbone.module.language_model

    assert mx.array_equal(loaded.language_model.lm_head.weight, language.model.embed_tokens.weight)
    assert isinstance(language.lm_head, TiedHead)
    assert not any("lm_head" in name for name, _ in tree_flatten(backbone.module.parameters()))
    hidden = mx.random.normal((2, 96))
    before = language.lm_head(hidden)
    assert mx.allclose(before, loaded.language_model.lm_head(hidden), atol=1e-5)
    language.model.embed_tokens.weight = language.model.embed_tokens.weight * 2
    assert mx.allclose(language.lm_head(hidden), 2 * before, atol=1e-5)


def test_head_that_differs_stays(checkpoint: Checkpoint) -> None:
    """A head with weights of its own (quantized otherwise, say) is left as it is."""
    module, _ = mlx_vlm.load(str(checkpoint("gemma3")))
    module.language_model.lm_head.weight = module.language_model.lm_head.weight + 1
    describe_family("gemma3").forward.fix_weights(module)

    assert isinstance(module.language_model.lm_head, nn.Linear)
