"""What is tried on the first rows before a run: a family, and packing."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from tests.checkpoints import FAMILIES as BUILT
from tests.families import FAMILIES, build, examples
from tests.prove import make_subject
from tests.training import make_trainable
from vlora import (
    bind,
    models,
)
from vlora.errors import ModelError
from vlora.models import check_packing
from vlora.models.backbone.startup_checks import check_family
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.recipe.schema import ModelSection

GENERIC = tuple(name for name in BUILT if not describe_family(name).is_proven)
"""Families without a proof, which are tried on the first rows of a run."""


@pytest.mark.parametrize("name", ["phi4mm", "unlimited_ocr", "granite4_vision", "deepseekocr"])
def test_first_rows_are_probed(name: str) -> None:
    """The checks before a run let a family through that holds, wherever its tokens stand within the model."""
    backbone, _ = prepare(build(FAMILIES[name]), describe_family(name), ModelSection(path=name))

    check_family(backbone, examples(FAMILIES[name]), name)


@pytest.mark.parametrize("family", GENERIC)
def test_probes_let_right_families_pass(family: str, checkpoint: Callable[[str], Path]) -> None:
    """A family without a description is trained once its first rows have shown that it is right."""
    trainable = make_trainable(checkpoint(family))

    models.check_family(trainable.backbone, trainable.examples, family)


def test_probes_stop_a_leak(checkpoint: Callable[[str], Path]) -> None:
    """A 2-D mask that replaces the causal one, as in mlx-vlm's own trainer, is found out before training."""
    from vlora.errors import ModelError

    class Leaking(models.MlxVlmBackbone):
        def all_logits(self, tokens: mx.array, differentiable: dict, auxiliary: dict) -> mx.array:  # type: ignore[type-arg]
            mask = mx.ones((1, 1, tokens.shape[1], tokens.shape[1]), dtype=mx.bool_)
            return self.language_model(tokens, mask=mask, cache=None, **differentiable, **auxiliary).logits

    right = make_trainable(checkpoint("llava"))
    leaking = Leaking(right.backbone.module, right.backbone.family, right.backbone.language_prefix)
    # Of one length, or the padding would give the mask away before the last token does.
    with pytest.raises(ModelError, match=r"would see what it has to predict|padded and batched"):
        models.check_family(leaking, right.examples[:1], "llava")
    with pytest.raises(ModelError, match="padded and batched"):
        models.check_family(leaking, right.examples, "llava")


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_probe_finds_what_leaks(
    dtype: mx.Dtype, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in which packed rows see one another is refused on its first rows; rounding is not taken for that."""
    trainable = make_trainable(checkpoint("llava"))
    bind(trainable.backbone, trainable.state)
    trainable.backbone.module.set_dtype(dtype)
    check_packing(trainable.backbone, trainable.examples, 400, "llava")
    monkeypatch.setattr("vlora.models.forward.attention_masks.MASK_MAKER", "nothing_of_this_name")
    with pytest.raises(ModelError, match="packed before it"):
        check_packing(trainable.backbone, trainable.examples, 400, "llava")


def test_positions_that_are_treated_otherwise_bound_a_pack() -> None:
    """Where attention is scaled by the distance from the row's beginning, packs end before that begins."""
    subject = make_subject("mistral3")
    config = subject.backbone.language_model.config
    scaling = {**(config.rope_parameters or {}), "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 300}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "rope_parameters", scaling)
        with pytest.raises(ModelError, match="at most 300"):
            check_packing(subject.backbone, subject.examples, 400, "mistral3")
        check_packing(subject.backbone, subject.examples, 300, "mistral3")
