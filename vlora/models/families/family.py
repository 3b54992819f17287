"""The description of a family in three records, each with one reader: format, parts, forward."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import mlx.core as mx
import mlx.nn as nn
from PIL import Image

from ...data.format.boxes import BoxStyle
from ...types import Example
from ..forward.calls import call_language_model, embed_alone, keep_inputs, label_nothing, leave_as_loaded
from ..forward.lm_inputs import LAYOUTS, Layouts, LMInputs, StackInputs, stack_nothing
from ..forward.overrides import Override

Inputs = dict[str, Any]

Reading = Literal["kept", "equal", "anew"]
"""How the model reads a growing answer: "kept" reads each token once and keeps keys and values at their places; "equal"
uses the model's own caches, for prompts of one length; "anew" reads the whole row for each token."""


STATES = "its layers keep states of whole rows, in which padding would take part"
"""Why only prompts of one length are answered together."""


@attrs.frozen(kw_only=True)
class Format:
    """How rows of a family are written and tokenized; read by `vlora.models.encode`.

    Attributes:
        template: The chat template where mlx-vlm's is wrong; None for the model's own.
        has_own_template: The tokenizer's chat template is the published one, if there is one; the processor's is not.
        image_mark: What the chat template writes for an image, where it is not the token that the model replaces.
        image_id: The id that stands for an image, where neither config.json nor the processor says it; negative if it
            is not of the vocabulary.
        spaces_after_images: The processor puts a space between an image and a text that touches it.
        opens_with_eos: A conversation begins with the end-of-sequence token where the tokenizer has no BOS.
        process: Runs the processor on a written conversation, where it would write a prompt of its own around it:
            (processor, text, images) to its outputs.
        takes_sizes: Its published loader reads image sizes from the row (qwen-vl-utils).
        boxes: Its format of boxes; None if that is not known.
        is_prefix_lm: Attention within the prompt is bidirectional, and the processor takes prompt and answer apart.
        is_encoder_decoder: An encoder reads, a decoder writes; the tokens are the decoder's.
        is_prompted_decoder: The prompt is the first of those tokens; else the encoder reads it.
    """

    template: str | None = None
    has_own_template: bool = False
    image_mark: str | None = None
    image_id: int | None = None
    spaces_after_images: bool = False
    opens_with_eos: bool = False
    process: Callable[[Any, str, list[Image.Image]], Mapping[str, Any]] | None = None
    takes_sizes: bool = False
    boxes: BoxStyle | None = None
    is_prefix_lm: bool = False
    is_encoder_decoder: bool = False
    is_prompted_decoder: bool = False


@attrs.frozen(kw_only=True)
class Parts:
    """Names of the parts of a family's model; read where adapters are attached and weights are frozen.

    Attributes:
        language_model: The language model's name where the model is its own; None where `model.language_model` is it.
        beside_language: Names of parts that lie within the language model but are not of it: towers, projectors.
        embedding_parts: Last parts of the names of language model layers that embedding uses besides `nn.Embedding`.
        no_adapter: Parts of the names of layers whose weights the model reads directly, or whose outputs nothing
            reads; no adapters.
        selectors: Parts of the names of layers that only select keys for attention; no gradient, and no adapters.
        tables: Names of arrays among a model's parameters that are computed and not learned, the published
            model's buffers; no training changes them.
        without_experts: Why layers of experts get no adapters; None if they do.
        checkpointed_part: The part of a layer that is recomputed under gradient checkpointing, where whole layers
            cannot be; None for whole layers.
    """

    language_model: str | None = None
    beside_language: tuple[str, ...] = ()
    embedding_parts: tuple[str, ...] = ()
    no_adapter: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    without_experts: str | None = None
    checkpointed_part: str | None = None


@attrs.frozen(kw_only=True)
class Forward:
    """How a family's model is loaded and run; read by `vlora.models.backbone`.

    Attributes:
        packs: Several rows of data can be packed into one row of a batch: the family's attention keeps them apart,
            nothing else mixes tokens, and positions count from anywhere or are given.
        has_grid_tower: The tower takes patches and a grid (Qwen-VL), so that images of one size go through it
            together and compiled.
        eager: Why the language step cannot be compiled; None if it can.
        equal_prompts: Why only prompts of one length are answered together, with the caches that the model makes
            itself; None if prompts of any length are.
        rereads: Why a row is read from its beginning for every token of an answer; None if what its layers have made
            of earlier tokens can be kept.
        config_keys: Keys of config.json that embedding needs and mlx-vlm's configuration drops.
        has_thetas: The `rope_theta` of config.json may be a list, with one for each layer.
        fix_weights: Corrects a loaded model permanently.
        fix_inputs: Corrects a row's processor output before the model sees it.
        embed: Embeds one row: (model, i32[1, T], inputs) to the language model's inputs.
        label_inputs: Inputs of the language model that depend on the row alone: (row) to inputs.
        finish_inputs: Adds missing inputs of the language model, and removes those that it must not get.
        forward: Runs the language model on a batch: (model, i32[B, T], inputs) to f[B, T, V]; safe to trace.
        embed_overrides: Overrides of the model while rows are embedded.
        train_overrides: Overrides of the model while the language step is traced or run.
        own_inputs: Inputs of its language model that no other family has: how they are padded and stacked.
        stack_inputs: Stacks those of them that cannot be padded one by one.
    """

    packs: bool = False
    has_grid_tower: bool = False
    eager: str | None = None
    equal_prompts: str | None = None
    rereads: str | None = None
    config_keys: tuple[str, ...] = ()
    has_thetas: bool = False
    fix_weights: Callable[[nn.Module], None] = leave_as_loaded
    fix_inputs: Callable[[Inputs], Inputs] = dict
    embed: Callable[[nn.Module, mx.array, Inputs], LMInputs] = embed_alone
    label_inputs: Callable[[Example], LMInputs] = label_nothing
    finish_inputs: Callable[[nn.Module, mx.array, Inputs, LMInputs], LMInputs] = keep_inputs
    forward: Callable[[nn.Module, mx.array, LMInputs], mx.array] = call_language_model
    embed_overrides: Override = contextlib.nullcontext
    train_overrides: Override = contextlib.nullcontext
    own_inputs: Layouts = attrs.field(factory=dict)
    stack_inputs: StackInputs = stack_nothing

    @property
    def layouts(self) -> Layouts:
        """How all inputs of the language model are padded and stacked."""
        return {**LAYOUTS, **self.own_inputs}

    @property
    def reading(self) -> Reading:
        """How the model reads a growing answer."""
        if self.rereads is not None:
            return "anew"
        return "kept" if self.equal_prompts is None else "equal"


def always(_: Mapping[str, Any]) -> bool:
    """Hold for every configuration."""
    return True


@attrs.frozen(kw_only=True)
class Family:
    """A model family.

    Attributes:
        refused: Why the family is not trained; None if it is.
        is_proven: Tests show its losses, gradients, padding and causality; no probe at start-up.
        format: How its rows are written and tokenized.
        parts: What its parts are called.
        forward: How its model is run.
        upstream_differs: Why mlx-vlm predicts other tokens when it generates; None if it does not. vlora trains the
            model that transformers, or the family's own publication, computes. `python -m tests.prove` fails if a
            reason is given and there is no difference.
        differs_if: Whether that holds for a model of the family: (config.json) to bool.
    """

    refused: str | None = None
    is_proven: bool = False
    format: Format = Format()
    parts: Parts = Parts()
    forward: Forward = Forward()
    upstream_differs: str | None = None
    differs_if: Callable[[Mapping[str, Any]], bool] = always

    def difference(self, config: Mapping[str, Any]) -> str | None:
        """Return why mlx-vlm generates differently with a model of this config.json; None if it does not."""
        return self.upstream_differs if self.differs_if(config) else None
