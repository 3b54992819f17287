"""A model's frozen weights divided: steps, features and validation are those of the whole model."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from tests.training import Trainable, make_trainable
from vlora import collate, make_eval_step, make_train_step, models, unbind
from vlora.errors import ModelError

CheckpointFactory = Callable[[str], Path]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("qwen3_vl", {}),
    ("qwen3_vl", {"model__quantize_bits": 4, "model__quantize_group_size": 32}),
    ("qwen3_vl", {"model__train_vision": True}),
    ("gemma3", {}),
    ("llava", {"lora__method": "dora"}),
]


@pytest.mark.parametrize(("family", "keys"), CASES)
def test_steps_are_those_of_the_whole_model(family: str, keys: dict[str, Any], checkpoint: CheckpointFactory) -> None:
    """Loss, weights and validation; the step recomputes its layers in both."""
    found = {}
    for is_divided in (False, True):
        subject = make_trainable(checkpoint(family), **keys)
        if is_divided:
            models.divide(subject.backbone, mx.distributed.init())
        found[is_divided] = run_step(subject)

    assert float(found[True][1]) == float(found[False][1])
    for name, value in found[False][0].items():
        assert mx.array_equal(found[True][0][name], value), name


def run_step(subject: Trainable) -> tuple[dict[str, mx.array], mx.array]:
    """Take a step, and validate what it has made."""
    unbind(subject.backbone)
    step = make_train_step(subject.backbone, subject.optimizer, grad_checkpoint=True, compiled=False)
    batch = collate(subject.examples)
    state, output = step(subject.state, [batch], learning_rate=1e-2)
    assert math.isfinite(float(output.grad_norm))
    return state.params, make_eval_step(subject.backbone, compiled=False)(state, batch)[0]


def test_what_is_divided(checkpoint: CheckpointFactory) -> None:
    """Layers, table, head and tower have placeholders; what is trained has not."""
    backbone = make_trainable(checkpoint("qwen3_vl")).backbone
    shards = models.divide(backbone, mx.distributed.init())
    params = dict(tree_flatten(backbone.module.parameters()))
    blank = {name for name, value in params.items() if value.ndim > 1 and bool(mx.isnan(value).all())}

    assert backbone.gathers
    assert len(shards.layers) == len(backbone.layers)
    assert not blank & dict(tree_flatten(backbone.module.trainable_parameters())).keys()
    for part in ("language_model.model.layers.0.mlp", "language_model.model.embed_tokens", "vision_tower.blocks.0"):
        assert any(name.startswith(part) for name in blank), part
    assert set(shards.embedding_names) <= blank


def test_what_embeds_stays_whole_where_some_of_it_is_trained(checkpoint: CheckpointFactory) -> None:
    """Its weights are constants of the trained tower's traces."""
    backbone = make_trainable(checkpoint("qwen3_vl"), model__train_vision=True).backbone

    assert not models.divide(backbone, mx.distributed.init()).embedding


def test_layers_that_text_does_not_run_stay_whole(
    checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks whose rows run them would wait for the others; they are recomputed as without divided weights."""
    backbone = make_trainable(checkpoint("qwen3_vl")).backbone
    run, last = models.MlxVlmBackbone.run, backbone.layers[-1]

    def run_without_last(self: models.MlxVlmBackbone, *given: Any) -> mx.array:
        layers = self.language_model.model.layers
        layers.pop()
        found = run(self, *given)
        layers.append(last)
        return found

    monkeypatch.setattr(models.MlxVlmBackbone, "run", run_without_last)
    shards = models.divide(backbone, mx.distributed.init())

    assert [module for module, _ in shards.layers] == backbone.layers[:-1]
    assert backbone.checkpoint_modules(1, "layer")[0] == [last]


def test_nothing_to_divide(checkpoint: CheckpointFactory) -> None:
    """A model that is trained as a whole is refused."""
    backbone = make_trainable(checkpoint("qwen3_vl"), model__full_finetune=True).backbone

    with pytest.raises(ModelError, match="no frozen weights to divide"):
        models.divide(backbone, mx.distributed.init())


def test_a_model_that_reads_an_image_in_every_row(checkpoint: CheckpointFactory) -> None:
    """A rank without a row would have nothing to run."""
    backbone = make_trainable(checkpoint("qwen3_vl")).backbone
    reads = attrs.evolve(backbone.family.format, is_encoder_decoder=True)
    backbone.family = attrs.evolve(backbone.family, format=reads)

    with pytest.raises(ModelError, match="reads an image in every row"):
        models.divide(backbone, mx.distributed.init())


@pytest.mark.parametrize(
    "keys",
    [{"model__train_vision": True, "lora__last_layers": 1}, {"lora__targets": ["vision"]}],
    ids=["last layer", "tower"],
)
def test_all_rows_gather_alike(
    keys: dict[str, Any], checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row without an image runs back through as many layers as one with an image: ranks would wait for each other."""
    subject = make_trainable(checkpoint("qwen3_vl"), **keys)
    models.divide(subject.backbone, mx.distributed.init())
    # Of one process nothing is gathered: something else that a graph shows stands for it.
    monkeypatch.setattr(mx.distributed, "all_gather", lambda x, **_: mx.stop_gradient(x + 0 * mx.sort(x)))
    step = make_train_step(subject.backbone, subject.optimizer, compiled=False)
    counts = []
    for has_image in (True, False):
        batch = collate([next(row for row in subject.examples if bool(row.inputs) == has_image)])
        total = step.accumulate(subject.state, batch)
        graph = io.StringIO()
        mx.export_to_dot(graph, total.loss, total.count, *total.gradients.values())
        counts.append(graph.getvalue().count('"Sort"') or graph.getvalue().count("Sort"))

    assert counts[0] == counts[1] > 0


class Pretended:
    """The first rank of a group that is not there."""

    def __init__(self, size: int) -> None:
        self._size = size

    def rank(self) -> int:
        """Give its number."""
        return 0

    def size(self) -> int:
        """Give the number of ranks."""
        return self._size


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize(("family", "keys"), CASES[:4])
def test_bytes_are_counted_before_they_are_divided(
    family: str, keys: dict[str, Any], n_ranks: int, checkpoint: CheckpointFactory
) -> None:
    """Of a model that has shapes only; a rank holds what it then holds, and gathers no more than there is."""
    subject = make_trainable(checkpoint(family), **keys)
    found = models.find_division(subject.backbone).count(n_ranks)
    before = models.frozen_bytes(subject.backbone)
    shards = models.divide(subject.backbone, Pretended(n_ranks))  # type: ignore[arg-type]

    assert found.n_elsewhere == shards.n_elsewhere
    assert before - models.frozen_bytes(subject.backbone) == found.n_elsewhere
    assert 0 < found.n_gathered < before
