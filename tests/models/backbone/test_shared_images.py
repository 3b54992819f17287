"""Images that several rows of a batch show, as the answers of a pair do, go through the tower once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from tests.families import FAMILIES
from tests.prove import make_subject
from tests.training import make_trainable
from vlora import Batch, Example, collate, make_train_step, models
from vlora.adapters.attached import lora_layers
from vlora.models.forward.overrides import override_call

QUICK = ("llava", "idefics3", "gemma3", "qwen3_vl")


def make_answers(example: Example) -> list[Example]:
    """Give a row three answers: its own, another one of the same length, and a shorter one."""
    other = example.tokens.copy()
    other[example.supervised] = np.roll(example.tokens[example.supervised], 1)
    assert (other != example.tokens).any()
    n_tokens = len(example.tokens)
    inputs = {
        name: value[:, :-1] if isinstance(value, np.ndarray) and value.shape[1:2] == (n_tokens,) else value
        for name, value in example.inputs.items()
    }
    shorter = attrs.evolve(
        example,
        inputs=inputs,
        **{name: getattr(example, name)[:-1] for name in ("tokens", "supervised", "placeholders")},
    )
    return [example, attrs.evolve(example, tokens=other), shorter]


def embed(backbone: models.MlxVlmBackbone, batch: Batch) -> dict[str, mx.array]:
    """Embed a batch."""
    return dict(tree_flatten(list(backbone.embed_rows(batch))))


@contextmanager
def counting(backbone: models.MlxVlmBackbone) -> Iterator[list[str]]:
    """List the calls of the smallest modules of the tower."""
    calls: list[str] = []

    def watched(name: str, module: nn.Module) -> Callable[..., object]:
        run = type(module).__call__

        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return run(module, *args, **kwargs)

        return call

    with ExitStack() as stack:
        for name, module in backbone.module.named_modules():
            is_small = not module.children() and not isinstance(module, nn.Embedding)
            if name and is_small and backbone.layout.part(name) == "vision":
                stack.enter_context(override_call(module, watched(name, module)))
        yield calls


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(FAMILIES)]
)
def test_answers_share_the_tower_and_nothing_else(name: str) -> None:
    """Three answers of one row are embedded as they are apart, with the tower's work for one."""
    subject = make_subject(name)
    backbone = subject.backbone
    answers = make_answers(subject.examples[0])
    sizes = np.asarray(answers[0].inputs.get("image_grid_thw", [0]))
    keys = tuple(f"image {number}" for number in range(len(sizes)))
    together = [attrs.evolve(answer, image_keys=keys) for answer in answers]

    with counting(backbone) as calls:
        apart = embed(backbone, collate(answers))
        n_apart = len(calls)
        alone = embed(backbone, collate(answers[:1]))
        n_alone = len(calls) - n_apart
        shared = embed(backbone, collate(together))
        n_shared = len(calls) - n_apart - n_alone

    assert alone.keys() == apart.keys() == shared.keys()
    # Where images go through the tower together, fewer of them are multiplied in another order.
    has_passes = backbone.family.forward.has_grid_tower
    rounding = {"rtol": 1e-4, "atol": 1e-5} if has_passes else {"rtol": 0, "atol": 0}
    for key, value in apart.items():
        np.testing.assert_allclose(np.array(shared[key]), np.array(value), **rounding, err_msg=key)
    if has_passes:
        laid = [backbone._grids().lay_out(collate(rows)).passes for rows in (answers, together)]
        n_images = [sum(len(own.members) for own in passes) for passes in laid]
        assert n_images == [3 * len(keys), len(keys)]
        return
    assert n_alone or name == "falcon_ocr", "only this family has no tower"
    assert n_apart == 3 * n_alone
    # Of florence2 one layer behind the tower is given as many features as the row has tokens.
    assert n_shared - n_alone == (name == "florence2"), "the tower ran for more than one answer"


@pytest.mark.parametrize("family", ["qwen3_vl", pytest.param("llava", marks=pytest.mark.slow)])
def test_a_trained_tower_gets_the_gradients_of_all_answers(family: str, checkpoint: Callable[[str], Path]) -> None:
    """Shared or not, a step gives the same loss and the same norm of gradients."""
    trainable = make_trainable(checkpoint(family), model__train_vision=True)
    answers = [*make_answers(trainable.examples[0])[:2], *trainable.examples[1:2]]
    keyed = [
        attrs.evolve(answer, image_keys=tuple(f"{place // 2} {number}" for number in range(len(answer.image_sizes))))
        for place, answer in enumerate(answers)
    ]
    step = make_train_step(trainable.backbone, trainable.optimizer, compiled=False)
    (_, apart), (_, shared) = (step(trainable.state, collate(rows), 1e-2) for rows in (answers, keyed))

    assert float(shared.nll_sum) == pytest.approx(float(apart.nll_sum), rel=1e-6)
    assert float(shared.grad_norm) == pytest.approx(float(apart.grad_norm), rel=1e-5)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_the_first_batch_is_embedded_as_later_ones(family: str, checkpoint: Callable[[str], Path]) -> None:
    """To the bit, with adapters in the tower: a run that goes on has a first batch again."""
    subject = make_trainable(checkpoint(family), lora__targets=["all-linear"])
    for number, (_, layer) in enumerate(lora_layers(subject.backbone.module)):
        layer.lora_b = mx.random.normal(layer.lora_b.shape, key=mx.random.key(number)) * 0.1
    row = next(row for row in subject.examples if row.inputs)
    batch = collate(make_answers(attrs.evolve(row, image_keys=("k",))))
    found = [embed(subject.backbone, batch) for _ in range(3)]
    mx.eval(found)

    for later in found[1:]:
        assert all(bool(mx.array_equal(found[0][name], later[name])) for name in later)
