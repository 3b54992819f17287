"""Proves that a family is trained right, on a tiny random model of it; `python -m tests.prove --help`.

A family is described in vlora/models/families (how it is run) and in tests/families (a tiny model and
rows). Every
check below compares two ways of computing the same thing, or looks for what has to be there; none knows a family.
"""

import argparse
import functools
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import attrs
import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten
from mlx_vlm.generate.ar import generate_step
from mlx_vlm.trainer.peft.utils import apply_lora_layers
from mlx_vlm.utils import get_model_and_args

from tests.families import FAMILIES, TinyFamily, build, examples
from tests.releases import check_versions
from tests.training import randomize
from vlora import (
    Batch,
    Example,
    TrainState,
    collate,
    init_state,
    make_eval_step,
    make_optimizer,
    make_train_step,
    models,
)
from vlora.adapters.targets import is_experts, is_router
from vlora.data.collate import collate_packed
from vlora.errors import BatchError, ModelError
from vlora.models.backbone.embed import to_device
from vlora.models.backbone.parts import find_layout
from vlora.models.families.family import Family
from vlora.models.families.registry import FAMILIES as DESCRIBED
from vlora.models.families.registry import describe_family
from vlora.models.forward import joined, segments
from vlora.models.forward.lm_inputs import PROMPT
from vlora.models.load import loading
from vlora.models.proven_versions import PROVEN, describe_versions, installed_versions
from vlora.recipe.schema import LoraSection, ModelSection, OptimSection
from vlora.train import chunked_head
from vlora.train.state import bind, bound_params
from vlora.types import Targets

RATE = 1e-2
SAME = 2e-5
"""Relative difference of losses computed in another order, in float32."""
SAME_GRADIENTS = 1e-3
SAME_PACKED = 1e-5


class NotProvenError(AssertionError):
    """A check found something else than it has to."""


def refute(found: object, message: str) -> None:
    """Say what a check found that must not be."""
    if found:
        raise NotProvenError(message)


@attrs.define(eq=False)
class Subject:
    """A family's tiny model in one of the ways in which it is trained.

    Attributes:
        name: The family.
        tiny: Its tiny model, as data.
        backbone: The model, trainable parts unfrozen.
        examples: Its rows.
        state: A state whose adapters add something.
        config: The adapter's configuration.
    """

    name: str
    tiny: TinyFamily
    backbone: models.MlxVlmBackbone
    examples: list[Example]
    state: TrainState
    config: dict[str, object]

    @functools.cached_property
    def batch(self) -> Batch:
        """All rows together."""
        return collate(self.examples)

    @functools.cached_property
    def eager(self) -> "tuple[float, dict[str, np.ndarray]]":
        """Mean loss and gradients of all rows together, not compiled: what other ways are compared with."""
        with mock.patch.object(joined, "MOST_PLACES", 0.0):
            return update(self, self.batch, compiled=False)

    def idle(self, name: str) -> bool:
        """Whether a parameter is known to get no gradient."""
        return any(re.search(pattern, name) for pattern in self.tiny.idle)


def make_subject(name: str, *, full: bool = False, bits: int | None = None) -> Subject:
    """Make a family's tiny model trainable: a LoRA on all linear layers, or everything.

    Of a family that is published packed, everything is the vision parts beside a LoRA.
    """
    tiny = FAMILIES[name]
    family = describe_family(model_type(name))
    refute(family.refused, f"refused: {family.refused}")
    module = build(tiny)
    if bits is not None:
        quantize_as_published(module, family, bits)
    backbone, _ = loading.prepare(module, family, ModelSection(path=name))
    config: dict[str, object] = {}
    if full and not tiny.is_packed:
        models.unfreeze_language(backbone)
    else:
        config = models.add_lora(backbone, LoraSection(rank=4, alpha=8.0), seed=0, quantized={})
    if full:
        models.unfreeze_vision(backbone)
    state = init_state(backbone, make_optimizer(OptimSection(name="sgd")))
    state = state._replace(params={key: randomize(key, value) for key, value in state.params.items()})
    return Subject(name, tiny, backbone, rows_of(name), state, config)


def quantize_as_published(module: nn.Module, family: Family, bits: int) -> None:
    """Quantize a language model as published checkpoints are: experts too, routers and what is read directly not."""
    loading.complete_modules(module)
    layout = find_layout(family, loading.find_prefix(module, family))

    def is_packed(name: str, child: nn.Module) -> bool:
        fits = hasattr(child, "to_quantized") and layout.is_language(name) and child.weight.shape[-1] % 32 == 0
        return fits and not is_router(name) and not set(family.parts.no_adapter).intersection(name.split("."))

    nn.quantize(module, group_size=32, bits=bits, class_predicate=is_packed)


@functools.cache
def rows_of(name: str) -> list[Example]:
    """A family's rows, encoded once."""
    return examples(FAMILIES[name])


def model_type(name: str) -> str:
    """The architecture of a tiny family, under mlx-vlm's name for it; variants share one."""
    return str(get_model_and_args(dict(FAMILIES[name].config))[1])


def nll(subject: Subject, rows: Sequence[Example], batch_size: int | None = None, *, compiled: bool = False) -> float:
    """Sum the loss of some rows as one batch."""
    step = make_eval_step(subject.backbone, compiled=compiled)
    return float(step(subject.state, collate(rows, batch_size))[0])


def logits(subject: Subject, rows: Sequence[Example]) -> np.ndarray:
    """Compute the logits of some rows as one batch."""
    batch = collate(rows)
    backbone = subject.backbone
    with bound_params(backbone.module, subject.state.params), backbone.overrides():
        return np.array(backbone.all_logits(batch.tokens, *backbone.embed(batch)).astype(mx.float32))


def update(subject: Subject, batches: Batch | list[Batch], **options: object) -> tuple[float, dict[str, np.ndarray]]:
    """Take one step of plain gradient descent: (mean loss, gradient of the mean loss by name)."""
    step = make_train_step(subject.backbone, make_optimizer(OptimSection(name="sgd", betas=(0.0, 0.0))), **options)  # type: ignore[arg-type]
    state, output = step(subject.state, batches, 1.0)
    mx.eval(state, output)
    before = subject.state.params
    return (
        float(output.nll_sum / output.n_supervised),
        {name: np.array(before[name] - value) for name, value in state.params.items()},
    )


def same(found: float, expected: float, what: str, tolerance: float = SAME) -> None:
    """Compare two losses."""
    refute(
        not np.isfinite(found) or abs(found - expected) > tolerance * max(1.0, abs(expected)),
        f"{what}: {found!r} instead of {expected!r}",
    )


def same_gradients(
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    what: str,
    tolerance: float = SAME_GRADIENTS,
) -> None:
    """Compare two gradients relative to the whole gradient's largest entry, and to each parameter's own."""
    largest = max(float(np.abs(value).max()) for value in expected.values())
    for name, value in expected.items():
        difference = float(np.abs(found[name] - value).max())
        refute(
            difference > tolerance * float(np.abs(value).max()) + 1e-6 * largest,
            f"{what}: the gradient of {name} differs by {difference:.2g} of {np.abs(value).max():.2g}",
        )


def reaches_all(gradients: Mapping[str, np.ndarray], subject: Subject, what: str) -> None:
    """Every trained parameter has a finite gradient that is not zero.

    A bias of keys moves all scores of a query alike: what gradient it has is rounding, if there is any.
    """
    infinite = [name for name, value in gradients.items() if not np.isfinite(value).all()]
    refute(infinite, f"{what}: no finite gradient of {infinite[:3]}")
    zero = [
        name
        for name, value in gradients.items()
        if not np.abs(value).max() > 0 and not subject.idle(name) and not name.endswith("k_proj.bias")
    ]
    refute(zero, f"{what}: {len(zero)} of {len(gradients)} have no gradient: {zero[:6]}")


def logits_are_the_model_own(subject: Subject) -> str:
    """The logits of every row in a batch are those of it alone, unpadded, with the head unsplit; the image matters."""
    together = logits(subject, subject.examples)
    refute(not np.isfinite(together).all(), "logits are not finite")
    backbone = subject.backbone
    head, backbone.head = backbone.head, None
    try:
        for row, example in enumerate(subject.examples):
            own = unbatched(subject, example)
            found = together[row, : len(example.tokens) - 1]
            own = own[: len(found)]
            difference = np.abs(own - found).max()
            refute(
                difference > 1e-4 * max(1.0, float(np.abs(own).max())),
                f"the logits of row {row} differ by {difference:.2g} when padded and batched",
            )
    finally:
        backbone.head = head
    example = subject.examples[0]
    other = attrs.evolve(example, inputs={**example.inputs, "pixel_values": changed(example.inputs["pixel_values"])})
    refute(
        np.abs(unbatched(subject, other) - unbatched(subject, example)).max() < 1e-3,
        "another image gives the same logits",
    )
    return ""


def unbatched(subject: Subject, example: Example) -> np.ndarray:
    """The logits of one row at its own length, f[T, V]."""
    backbone = subject.backbone
    length = len(example.tokens)
    batch = Batch(
        tokens=mx.array(example.tokens)[None],
        valid=mx.ones((1, length), dtype=mx.bool_),
        targets=Targets(
            mx.arange(length),
            *(mx.zeros((length,), dtype=mx.int32),) * 2,
            mx.zeros((0,)),
            mx.ones(1),
            mx.zeros((0,)),
            {},
        ),
        rows=(example,),
    )
    with bound_params(backbone.module, subject.state.params), backbone.overrides():
        logits = backbone.all_logits(batch.tokens, *backbone.embed(batch))
        return np.array(logits[0].astype(mx.float32))


def changed(pixels: object) -> object:
    """Other pixels of the same shapes."""
    if isinstance(pixels, list):
        return [changed(part) for part in pixels]
    return np.flip(np.asarray(pixels), axis=-1) + 0.5


def no_token_sees_a_later_one(subject: Subject) -> str:
    """Another last token leaves every earlier logit as it was, and changes its own."""
    for example in subject.examples:
        tokens = example.tokens.copy()
        tokens[-1] = tokens[-2] if tokens[-1] != tokens[-2] else tokens[-3]
        before = unbatched(subject, example)
        after = unbatched(subject, attrs.evolve(example, tokens=tokens))
        leak = np.abs(before[:-1] - after[:-1]).max()
        refute(
            leak > 1e-5 * max(1.0, float(np.abs(before).max())),
            f"{example.source}: earlier logits change by {leak:.2g} with the last token",
        )
        refute(np.abs(before[-1] - after[-1]).max() < 1e-4, f"{example.source}: the last token changes nothing")
    return ""


def generation_agrees(subject: Subject) -> str:
    """The next token after a row is the one that mlx-vlm predicts when it generates; exceptions are given a reason."""
    module = build(subject.tiny)
    module.eval()
    adapterless = {
        name: mx.zeros_like(value) if name.endswith("lora_b") else value for name, value in subject.state.params.items()
    }
    plain = attrs.evolve(subject, state=subject.state._replace(params=adapterless))
    is_read_apart = subject.backbone.family.format.is_encoder_decoder
    differences = []
    for example in subject.examples:
        # An encoder-decoder generates from its prompt: what comes first is the token after the one that starts a row.
        own = log_softmax(unbatched(plain, example)[0 if is_read_apart else -1])
        prompt = example.inputs.get(PROMPT, example.tokens[:1]) if is_read_apart else example.tokens
        try:
            # Mended, or some of it would be read from beyond an array, and be another at every call.
            inputs = subject.backbone.family.forward.fix_inputs(dict(example.inputs))
            generated = predict_next(module, np.reshape(prompt, -1), inputs)
        except (ValueError, AssertionError, IndexError, TypeError) as error:
            differences.append(f"{example.source}: {type(error).__name__}: {error}")
            continue
        n_words = min(len(own), len(generated))
        difference = float(np.abs(own[:n_words] - generated[:n_words]).max())
        if difference > LIKE_GENERATED:
            differences.append(f"{example.source}: log-probabilities differ by {difference:.2g}")
    reason = subject.backbone.family.difference(subject.tiny.config)
    if reason is None:
        refute(bool(differences), "; ".join(differences))
    refute(not differences and reason is not None, f"mlx-vlm generates the same; it is no longer so that {reason}")
    return reason or ""


LIKE_GENERATED = 5e-5
"""Difference of log-probabilities; those that rounding leaves are a tenth of it, an approximated activation's more."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Normalise f[V]."""
    shifted = logits - logits.max()
    normalised: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return normalised


def predict_next(module: nn.Module, tokens: np.ndarray, inputs: Mapping[str, object]) -> np.ndarray:
    """Let mlx-vlm predict a next token as it generates, f[V]; uncorrected, without adapters."""
    given = {name: to_device(value) for name, value in inputs.items() if name not in ("pixel_values", PROMPT)}
    ids = mx.array(tokens.astype(np.int32))[None]
    steps_of_generation = generate_step(
        ids,
        module,
        to_device(inputs.get("pixel_values")),
        mx.ones_like(ids),
        max_tokens=1,
        temperature=0.0,
        prefill_step_size=None,
        **given,
    )
    _, log_probabilities = next(steps_of_generation)
    return np.array(log_probabilities.astype(mx.float32)).reshape(-1)


def company_and_padding_change_nothing(subject: Subject) -> str:
    """A row's loss is the same alone, beside rows with other images, beside filler rows, and in another order."""
    alone = sum(nll(subject, [example]) for example in subject.examples)
    same(nll(subject, subject.examples), alone, "rows together")
    same(nll(subject, subject.examples[::-1], len(subject.examples) + 1), alone, "rows in reverse beside a filler")
    return subject.tiny.without_text_rows or ""


def packed_rows_are_apart(subject: Subject) -> str:
    """Rows packed into one have the loss and the gradients of rows apart, and see nothing of one another.

    Of a family that does not pack, the same is refuted.
    """
    if subject.backbone.family.forward.packs:
        compare_packed(subject)
        return ""
    try:
        compare_packed(subject)
    except (NotProvenError, BatchError) as error:
        return re.sub(r"( by [\d.e+-]+|: rows of this model cannot be packed)$", "", str(error))
    msg = "packed rows are apart: describe the family with packs=True"
    raise NotProvenError(msg)


def compare_packed(subject: Subject) -> None:
    """Compare packed rows with the same rows apart: what they see, their loss, their gradients."""
    rows = subject.examples
    packed, spans = packed_logits(subject, rows)
    first = rows[0]
    tokens = first.tokens.copy()
    words = np.flatnonzero(~first.placeholders)[:-1]
    tokens[words] = tokens[words[::-1]]
    other, _ = packed_logits(subject, [attrs.evolve(first, tokens=tokens), *rows[1:]])
    largest = max(1.0, float(np.abs(packed).max()))
    later = slice(spans[1][1], spans[-1][1] + spans[-1][2])
    refute(np.abs(packed[later] - other[later]).max() > 1e-5 * largest, "packed rows see one another")
    for example, (_, start, count) in zip(rows, spans, strict=True):
        difference = np.abs(packed[start : start + count] - unbatched(subject, example)[:count]).max()
        refute(difference > 1e-4 * largest, f"the logits of a packed row differ by {difference:.2g}")
    # Recomputed: a mask that layers made for themselves would be gone in the backward pass. So few examples would have
    # a mask, unless they are always given rows of their own.
    with mock.patch.object(segments, "MOST_SCORES", float("inf")):
        loss, gradients = update(
            subject,
            collate_packed([rows, rows[::-1]], 3),
            compiled=subject.backbone.is_traceable,
            grad_checkpoint=True,
        )
    apart, expected = subject.eager
    same(loss, apart, "packed", SAME_PACKED)
    same_gradients(gradients, expected, "packed", 1e-4)
    if subject.backbone.joins:
        # With a filler row, so that there is padding whatever the rows' lengths.
        with mock.patch.object(joined, "MOST_PLACES", 0.99):
            batch = collate(rows, len(rows) + 1)
            refute(subject.backbone.count_places(batch) == batch.tokens.size, "padded rows are not joined")
            loss, gradients = update(subject, batch, compiled=subject.backbone.is_traceable)
        same(loss, apart, "joined", SAME_PACKED)
        same_gradients(gradients, expected, "joined", 1e-4)


def packed_logits(subject: Subject, rows: Sequence[Example]) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Compute the logits of some rows packed into one, f[T, V], and where each stands."""
    batch = collate_packed([rows])
    backbone = subject.backbone
    with bound_params(backbone.module, subject.state.params), backbone.overrides():
        logits = backbone.all_logits(batch.tokens, *backbone.embed(batch))
    return np.array(logits.astype(mx.float32))[0], batch.spans


def compiled_equals_eager(subject: Subject) -> str:
    """Compiled, eager and accumulated steps have one loss and one gradient; a second batch reuses the trace."""
    batch = subject.batch
    loss, gradients = subject.eager
    rows = [collate([example]) for example in subject.examples]
    accumulated, summed = update(subject, rows, compiled=False)
    same(accumulated, loss, "accumulated")
    same_gradients(summed, gradients, "accumulated")
    if not subject.backbone.is_traceable:
        return f"eager only: {subject.backbone.family.forward.eager}"
    compiled, traced = update(subject, batch)
    same(compiled, loss, "compiled")
    same_gradients(traced, gradients, "compiled")
    step = make_train_step(subject.backbone, make_optimizer(OptimSection(name="sgd")))
    first = step(subject.state, batch, RATE)
    again = step(subject.state, collate(subject.examples[::-1]), RATE)
    mx.eval(first, again)
    same(float(again[1].nll_sum), float(first[1].nll_sum), "second batch through the same trace")
    refute(step.n_traces != 1, f"{step.n_traces} traces of one shape")
    return ""


def head_runs_at_selected_places(subject: Subject) -> str:
    """The head is found; at selected places and in chunks it gives the loss and gradients of the whole one."""
    head = subject.backbone.head
    if head is None:
        raise NotProvenError
    batch = subject.batch
    loss, gradients = subject.eager
    subject.backbone.head = None
    try:
        whole, expected = update(subject, batch, compiled=False)
    finally:
        subject.backbone.head = head
    same(loss, whole, "head at selected places")
    same_gradients(gradients, expected, "head at selected places")
    if head.stack is None:
        return f"{head.name}, not in chunks"
    held = chunked_head.HEAD_BYTES, chunked_head.FEWEST_HEAD_ROWS
    chunked_head.HEAD_BYTES, chunked_head.FEWEST_HEAD_ROWS = 0, 5
    try:
        loss, gradients = update(subject, batch, compiled=subject.backbone.is_traceable)
    finally:
        chunked_head.HEAD_BYTES, chunked_head.FEWEST_HEAD_ROWS = held
    same(loss, whole, "head in chunks")
    same_gradients(gradients, expected, "head in chunks")
    return head.name + (" (tied)" if head.is_tied else "")


def adapters_learn(subject: Subject) -> str:
    """All linear layers have an adapter with a finite gradient that is not zero, experts too, but no router."""
    _, gradients = subject.eager
    reaches_all(gradients, subject, "LoRA")
    backbone = subject.backbone
    adapted = {name.removesuffix(".lora_b") for name in gradients if name.endswith(".lora_b")}
    routers = sorted(name for name in adapted if is_router(name))
    refute(bool(routers), f"routers have adapters: {routers[:3]}")
    # An adapted layer holds the original one under this name.
    experts = {
        name.removesuffix(".linear")
        for name, module in backbone.module.named_modules()
        if is_experts(module) and backbone.is_language(name)
    }
    left_out = sorted(experts - adapted)
    reason = backbone.family.parts.without_experts
    refute(bool(left_out) and reason is None, f"experts have no adapters: {left_out[:3]}")
    return f"{len(adapted)} layers" + (f", not the experts: {reason}" if left_out else "")


def adapters_learn_on_four_bits(subject: Subject) -> str:
    """The same on a base quantized to 4 bits, with the loss of the dequantized base."""
    quantized = make_subject(subject.name, bits=4)
    loss, gradients = update(quantized, quantized.batch, compiled=quantized.backbone.is_traceable)
    reaches_all(gradients, quantized, "QLoRA")
    dequantize(quantized.backbone.module)
    plain, expected = quantized.eager
    same(loss, plain, "dequantized base", 1e-4)
    same_gradients(gradients, expected, "dequantized base")
    return ""


def dequantize(module: nn.Module) -> None:
    """Put plain layers in the place of quantized ones, adapters' bases included."""
    for _, child in module.named_modules():
        if type(child).__name__.startswith("Quantized") and "scales" in child:
            weight = mx.dequantize(
                child.weight, child.scales, child.get("biases"), child.group_size, child.bits, mode=child.mode
            )
            kind = type(child)
            plain = getattr(sys.modules[kind.__module__], kind.__name__.removeprefix("Quantized"), None)
            plain = plain or getattr(nn, kind.__name__.removeprefix("Quantized"))
            child.weight = weight.astype(mx.float32)
            for name in ("scales", "biases"):
                child.pop(name, None)
            child.__class__ = plain


def checkpointing_changes_nothing(subject: Subject) -> str:
    """Recomputing activations in the backward pass gives the same gradients."""
    refute(not subject.backbone.layers, "nothing is recomputed")
    loss, gradients = subject.eager
    compiled = subject.backbone.is_traceable
    other, recomputed = update(subject, subject.batch, compiled=compiled, grad_checkpoint=True)
    same(other, loss, "recomputed")
    same_gradients(recomputed, gradients, "recomputed")
    part = subject.backbone.family.parts.checkpointed_part
    return f"only {part}" if part else ""


def full_training_reaches_all(subject: Subject) -> str:
    """Full fine-tuning with vision moves every parameter that is in use; compiled is eager there too."""
    full = make_subject(subject.name, full=True)
    loss, gradients = full.eager
    reaches_all(gradients, full, "full fine-tuning")
    idle_is_idle(gradients, full)
    quotient(full, gradients)
    if full.backbone.is_traceable:
        other, traced = update(full, full.batch)
        same(other, loss, "compiled")
        same_gradients(traced, gradients, "compiled")
    remarks = list(dict.fromkeys(full.tiny.idle.values()))
    if full.tiny.is_packed:
        try:
            models.unfreeze_language(full.backbone)
        except ModelError as error:
            remarks.append(f"refused for the language model: {error}")
        else:
            msg = "packed weights are taken for trainable"
            raise NotProvenError(msg)
    return "; ".join(remarks)


NOISE = 1e-5
"""Of the largest entry of a gradient: what rounding leaves of an entry that is zero."""


def idle_is_idle(gradients: Mapping[str, np.ndarray], subject: Subject) -> None:
    """What is said to have no gradient is there, and has none."""
    largest = max(float(np.abs(value).max()) for value in gradients.values())
    for pattern, reason in subject.tiny.idle.items():
        matched = [name for name in gradients if re.search(pattern, name)]
        refute(not matched, f"no parameter is called {pattern!r}, of which is said: {reason}")
        moving = [name for name in matched if np.abs(gradients[name]).max() > NOISE * largest]
        refute(bool(moving), f"{moving[:3]} have a gradient, though {reason}")


STEPS = (2e-3, 5e-4, 1.25e-4)
"""Along the gradient, f32[] each; within a long one a row's experts may change, a short one drowns in rounding."""


def quotient(subject: Subject, gradients: Mapping[str, np.ndarray]) -> None:
    """The loss changes along the vision parts' gradient as the gradient says."""
    names = [name for name in gradients if not subject.backbone.is_language(name)]
    norm = float(np.sqrt(sum(float((gradients[name] ** 2).sum()) for name in names)))
    slopes = []
    for step in STEPS:
        ahead, behind = (
            loss_at(subject, {name: sign * step / norm * gradients[name] for name in names}) for sign in (1, -1)
        )
        slopes.append((ahead - behind) / (2 * step))
        rounding = 2e-6 * abs(ahead) / step
        if abs(slopes[-1] - norm) <= 0.05 * norm + min(rounding, 0.1 * norm if slopes[1:] else rounding):
            return
    found = ", ".join(f"{slope:.4g}" for slope in slopes)
    msg = f"along the vision gradient the loss changes by {found}, the gradient says {norm:.4g}"
    raise NotProvenError(msg)


def loss_at(subject: Subject, change: Mapping[str, np.ndarray]) -> float:
    """The mean loss with some parameters changed."""
    params = {**subject.state.params, **{name: subject.state.params[name] + mx.array(d) for name, d in change.items()}}
    total, count = make_eval_step(subject.backbone, compiled=False)(
        subject.state._replace(params=params), subject.batch
    )
    return float(total) / float(count)


def adapter_reloads_in_mlx_vlm(subject: Subject) -> str:
    """mlx-vlm attaches the saved adapter to the same (corrected) base with the same logits."""
    backbone = subject.backbone
    bind(backbone, subject.state)
    expected = logits(subject, subject.examples)
    with tempfile.TemporaryDirectory() as folder:
        weights = dict(tree_flatten(backbone.module.trainable_parameters()))
        mx.save_safetensors(f"{folder}/adapters.safetensors", weights)
        Path(folder, "adapter_config.json").write_text(json.dumps(subject.config))
        base = build(subject.tiny)
        remark = subject.tiny.loads_no_adapter
        if remark:
            refute(attaches(base, folder), f"mlx-vlm attaches it; it is no longer so that {remark}")
            loading.complete_modules(base)
        backbone.family.forward.fix_weights(base)
        module = apply_lora_layers(base, folder)
    module.eval()
    reloaded = models.MlxVlmBackbone(module, backbone.family, backbone.language_prefix)
    for name, child in module.named_modules():
        child._training = backbone.is_language(name) and not isinstance(child, nn.Dropout)
    batch = subject.batch
    with reloaded.overrides():
        found = np.array(reloaded.all_logits(batch.tokens, *reloaded.embed(batch)))
    difference = np.abs(found - expected).max()
    refute(
        difference > 1e-4 * max(1.0, float(np.abs(expected).max())),
        f"mlx-vlm's logits with the adapter differ by {difference:.2g}",
    )
    return remark or ""


def attaches(base: nn.Module, folder: str) -> bool:
    """Whether mlx-vlm by itself can attach an adapter to a model."""
    try:
        apply_lora_layers(base, folder)
    except AttributeError:
        return False
    return True


CHECKS: Mapping[str, Callable[[Subject], str]] = {
    "logits": logits_are_the_model_own,
    "generated": generation_agrees,
    "causal": no_token_sees_a_later_one,
    "batches": company_and_padding_change_nothing,
    "packs": packed_rows_are_apart,
    "compiled": compiled_equals_eager,
    "head": head_runs_at_selected_places,
    "LoRA": adapters_learn,
    "4-bit": adapters_learn_on_four_bits,
    "recomputed": checkpointing_changes_nothing,
    "full": full_training_reaches_all,
    "reload": adapter_reloads_in_mlx_vlm,
}
"""Column of the table to check. A check returns a remark, or raises `NotProvenError`."""


def prove(name: str, only: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Run all checks of a family.

    Args:
        name: A key of `tests.families.FAMILIES`.
        only: Names of checks; all if empty.

    Returns:
        Check to {"holds": "yes" or "no", "remark": ...}.
    """
    results: dict[str, dict[str, str]] = {}
    subject: Subject | None = None
    for check, function in CHECKS.items():
        if only and check not in only:
            continue
        try:
            subject = subject or make_subject(name)
            remark = function(subject)
            results[check] = {"holds": "yes", "remark": remark}
        except (NotProvenError, ValueError, TypeError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            # A model of mlx-vlm may fail in any of these ways; the table has to say so.
            subject = None  # a model whose trace failed is of no use
            where = "" if isinstance(error, NotProvenError) else last_frame(error)
            results[check] = {"holds": "no", "remark": f"{type(error).__name__}: {error}{where}"}
    return results


def last_frame(error: BaseException) -> str:
    """Where an unexpected error was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno})"


def say(name: str, results: Mapping[str, Mapping[str, str]]) -> None:
    """Print how many checks hold, and why others do not."""
    failed = {check: result for check, result in results.items() if result["holds"] == "no"}
    print(f"{name}: {len(results) - len(failed)} of {len(results)} hold", flush=True)
    for check, result in failed.items():
        print(f"    {check}: {result['remark'][:400]}", flush=True)


def summarize(results: Mapping[str, Mapping[str, Mapping[str, str]]], seconds: float) -> None:
    """Print which releases were proved, and which checks of which families do not hold with them."""
    print(f"{len(results)} families in {seconds:.0f} s with {describe_versions(installed_versions())}", flush=True)
    broken = {
        name: failed
        for name, checks in results.items()
        if (failed := [check for check, result in checks.items() if result["holds"] == "no"])
    }
    if broken:
        print(f"these do not hold; all did with {describe_versions(PROVEN)}:", flush=True)
    for name, failed in broken.items():
        print(f"    {name}: {', '.join(failed)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove the named families, or all, and print what holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="families; all of them if none is named")
    parser.add_argument("--only", action="append", default=[], choices=CHECKS, help="a single check; may be repeated")
    parser.add_argument("--write", action="store_true", help=f"write the table of all families, {TABLE.name}")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--jobs", type=int, default=1, help="families proved at a time, a process each (default 1)")
    options = parser.parse_args(arguments)
    if options.write:
        check_versions(parser)
    names = options.families or [name for name in FAMILIES if not describe_family(model_type(name)).refused]
    start = time.perf_counter()
    results = {}
    if len(names) == 1:
        results[names[0]] = prove(names[0], options.only)  # in this thread: MLX does not end well in another
        say(names[0], results[names[0]])
    else:
        with ThreadPoolExecutor(max(1, options.jobs)) as pool:
            proofs = pool.map(functools.partial(prove_apart, only=options.only), names)
            for name, found in zip(names, proofs, strict=True):
                results[name] = found
                say(name, found)
    summarize(results, time.perf_counter() - start)
    if options.write and not options.families:
        write_table(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["holds"] == "no" for checks in results.values() for result in checks.values()))


TABLE = Path(__file__).parent.parent / "vlora" / "models" / "families.md"


def write_table(results: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """Write what holds per family, as a table for people."""
    versions = describe_versions(PROVEN)
    refused = {name: family.refused for name, family in DESCRIBED.items() if family.refused}
    whole = [name for name, checks in results.items() if all(check["holds"] == "yes" for check in checks.values())]
    families = {model_type(name) for name in whole}
    packing = sum(checks.get("packs", {}) == {"holds": "yes", "remark": ""} for checks in results.values())
    otherwise = sum(bool(checks.get("generated", {}).get("remark")) for checks in results.values())
    lines = [
        "# What is proved of each model family",
        "",
        (
            f"Written by `python -m tests.prove --write` with {versions}; do not edit. Of the "
            f"{len(families) + len(refused)} families of mlx-vlm that read images and write text, {len(families)} hold "
            f"in every column ({len(whole)} tiny models; packs says what a family can), {len(refused)} are refused."
        ),
        "",
        (
            "Each family is a tiny random model of its own classes in float32, with rows as its processor writes them. "
            "yes: the check of that name in tests/prove.py held."
        ),
        "",
        (
            f"differs: mlx-vlm itself does otherwise, for the reason that is given. With {otherwise} of the models it "
            "generates otherwise; vlora trains what transformers, or the family's publication, computes. Which "
            "families were compared with transformers stands in parity.md; the others are right as far as mlx-vlm's "
            "forward is."
        ),
        "",
        (
            f"packs: no where several rows cannot be packed into one, for the reason that is given; {packing} of the "
            "models can (`train.batching`)."
        ),
        "",
        *(f"- **{name}**: {(function.__doc__ or '').strip().splitlines()[0]}" for name, function in CHECKS.items()),
        "",
        "| family | since mlx-vlm | " + " | ".join(CHECKS) + " | remarks |",
        "|---" * (len(CHECKS) + 3) + "|",
    ]
    for name in sorted(results):
        checks = results[name]
        cells = [checks.get(check, {"holds": "no"})["holds"] for check in CHECKS]
        for check, cell in (("generated", "differs"), ("reload", "differs"), ("packs", "no")):
            if checks.get(check, {}).get("remark"):
                cells[list(CHECKS).index(check)] = cell
        noted = {
            "batches": "rows",
            "packs": "not packed",
            "generated": "mlx-vlm generates otherwise",
            "compiled": "compiled",
            "LoRA": "LoRA",
            "recomputed": "recomputed",
            "full": "idle in full training",
            "reload": "reload",
        }
        remarks = [
            f"{label}: {checks[check]['remark']}"
            for check, label in noted.items()
            if check in checks and checks[check]["remark"]
        ]
        failed = [f"{check}: {result['remark']}" for check, result in checks.items() if result["holds"] == "no"]
        lines.append(
            f"| {name} | {PROVEN['mlx-vlm']} | "
            + " | ".join(cells)
            + f" | {'; '.join(failed + remarks)} |".replace("\n", " ")
        )
    lines += ["", "## Refused", "", *(f"- {name}: {reason}" for name, reason in sorted(refused.items())), ""]
    TABLE.write_text("\n".join(lines))


def prove_apart(name: str, only: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Prove a family in a process of its own: a crash is that family's alone."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.json")
        command = [sys.executable, "-m", "tests.prove", name, "--json", str(file)]
        command += [part for check in only for part in ("--only", check)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if not file.exists():
            tail = (run.stderr.strip().splitlines() or ["nothing said"])[-1]
            return {"process": {"holds": "no", "remark": f"ended with {run.returncode}: {tail}"}}
        results: dict[str, dict[str, str]] = json.loads(file.read_text())[name]
        return results


if __name__ == "__main__":
    sys.exit(main())
