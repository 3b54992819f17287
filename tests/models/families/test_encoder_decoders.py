"""Encoder-decoders: their own logits, one table under one name, an image in every row."""

from collections.abc import Mapping

import attrs
import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from tests.families import FAMILIES, build
from tests.prove import logits, make_subject
from vlora import collate, make_optimizer, make_train_step
from vlora.errors import BatchError, ModelError
from vlora.models.backbone.startup_checks import check_family
from vlora.models.families.encoder_decoders import fix_table
from vlora.models.forward.lm_inputs import PROMPT
from vlora.recipe.schema import OptimSection
from vlora.train.state import bind

both = pytest.mark.parametrize("family", ["florence2", "nemotron_parse"])


def loaded(family: str, weights: dict[str, mx.array]) -> nn.Module:
    """Make the model anew, as mlx-vlm would load these weights."""
    model = build(FAMILIES[family])
    model.load_weights(list(model.sanitize(dict(weights)).items()), strict=True)
    model.eval()
    return model


def own_logits(model: nn.Module, inputs: Mapping[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Run mlx-vlm's model as a whole on one row, f[T, V]."""
    prompt = mx.array(inputs[PROMPT]) if PROMPT in inputs else None
    features = model.get_input_embeddings(prompt, mx.array(inputs["pixel_values"]))
    ids = mx.array(tokens)[None]
    return np.array(model.language_model(None, inputs_embeds=features.inputs_embeds, decoder_input_ids=ids).logits)[0]


@both
def test_a_trained_model_is_saved_as_mlx_vlm_loads_it(family: str) -> None:
    """The table has one name, the head follows it, and mlx-vlm's own forward gives the trained logits."""
    subject = make_subject(family, full=True)
    step = make_train_step(subject.backbone, make_optimizer(OptimSection(name="sgd")))
    before = logits(subject, subject.examples)
    subject.state, _ = step(subject.state, collate(subject.examples), 0.1)
    bind(subject.backbone, subject.state)
    found = logits(subject, subject.examples)
    weights = dict(tree_flatten(subject.backbone.module.parameters()))

    assert [name for name in weights if "shared" in name or "embed_tokens" in name or "lm_head" in name] == [
        "language_model.model.shared.weight"
    ]
    assert np.abs(found - before).max() > 0.01
    model = loaded(family, weights)
    for row, example in enumerate(subject.examples):
        expected = own_logits(model, example.inputs, example.tokens[:-1])
        np.testing.assert_allclose(found[row, : len(expected)], expected, rtol=1e-4, atol=1e-4)


@both
def test_a_head_of_its_own_stays_its_own(family: str) -> None:
    """Nemotron-Parse 1 has a head that is not the table."""
    untied = attrs.evolve(FAMILIES[family], prepare=None)
    model = build(untied)
    fix_table(model)
    assert "weight" in model.language_model.lm_head


@both
def test_a_row_without_an_image_is_refused(family: str) -> None:
    """Nothing would be encoded."""
    subject = make_subject(family)
    blind = attrs.evolve(subject.examples[0], inputs={})
    with pytest.raises(BatchError, match="row 0: the row has no image; this model reads one in every row"):
        subject.backbone.embed(collate([blind]))


def test_pages_of_two_sizes_are_not_mixed() -> None:
    """Nemotron-Parse's decoder has no mask over the states of images."""
    subject = make_subject("nemotron_parse")
    first, second, _ = subject.examples
    small = attrs.evolve(second, inputs={"pixel_values": second.inputs["pixel_values"][..., :16]})
    with pytest.raises(BatchError, match=r"rows with \(5, 64\) and \(9, 64\) states of images cannot stand in one"):
        subject.backbone.embed(collate([first, small]))


@both
def test_the_probe_finds_a_decoder_that_sees_what_it_has_to_write(family: str) -> None:
    """Rows of unproven families are tried before training, those of encoder-decoders by the decoder's tokens."""
    subject = make_subject(family)
    rows = [subject.examples[0], subject.examples[0]]
    check_family(subject.backbone, subject.examples, family)
    own = subject.backbone.family.forward
    ahead = attrs.evolve(own, forward=lambda module, ids, inputs: own.forward(module, mx.roll(ids, -1, 1), inputs))
    subject.backbone.family = attrs.evolve(subject.backbone.family, forward=ahead)
    with pytest.raises(ModelError, match=r"earlier logits of this .* model change with a later token"):
        check_family(subject.backbone, rows, family)
