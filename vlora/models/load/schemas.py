"""Schemas of the JSON files of models and adapters, for the keys that vlora depends on. Pure.

Other keys are specific to families, and are not checked. Known keys are checked like recipes: nothing is coerced, and
all errors are reported at once.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from cattrs import ClassValidationError

from ...recipe import checks
from ...recipe.converter import Check, Known, explain, make_converter
from . import value_checks


def _key(default: Any = None, check: Check | None = None) -> Any:
    return attrs.field(default=default, metadata={"check": check})


@attrs.frozen(kw_only=True)
class TextPart:
    """The language model."""

    hidden_size: Any = _key(None, value_checks.count(value_checks.WIDEST))
    intermediate_size: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    num_hidden_layers: Any = _key(None, value_checks.count(value_checks.MOST_LAYERS))
    num_attention_heads: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    num_key_value_heads: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    head_dim: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    vocab_size: Any = _key(None, value_checks.count(value_checks.MOST))
    num_experts: Any = _key(None, value_checks.count(value_checks.MOST_EXPERTS, least=0))
    num_local_experts: Any = _key(None, value_checks.count(value_checks.MOST_EXPERTS, least=0))
    num_experts_per_tok: Any = _key(None, value_checks.count(value_checks.MOST_EXPERTS, least=0))
    max_position_embeddings: Any = _key(None, value_checks.count(2**53))
    rms_norm_eps: Any = _key(None, value_checks.positive)
    layer_norm_eps: Any = _key(None, value_checks.positive)
    norm_eps: Any = _key(None, value_checks.positive)
    rope_theta: Any = _key(None, value_checks.scales)
    partial_rotary_factor: Any = _key(None, value_checks.not_negative)
    attention_dropout: Any = _key(None, value_checks.not_negative)
    initializer_range: Any = _key(None, value_checks.not_negative)
    rope_parameters: Any = _key(None, value_checks.rope)
    rope_scaling: Any = _key(None, value_checks.rope)
    layer_types: Any = _key(None, value_checks.texts)
    model_type: Any = _key(None, value_checks.text)
    eos_token_id: Any = _key(None, value_checks.ids)


@attrs.frozen(kw_only=True)
class VisionPart:
    """The tower."""

    hidden_size: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    intermediate_size: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    num_hidden_layers: Any = _key(None, value_checks.counts(value_checks.MOST_LAYERS))
    depth: Any = _key(None, value_checks.counts(value_checks.MOST_LAYERS))
    num_heads: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    num_attention_heads: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    patch_size: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    spatial_merge_size: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    temporal_patch_size: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    layer_norm_eps: Any = _key(None, value_checks.positive)
    rms_norm_eps: Any = _key(None, value_checks.positive)
    rope_theta: Any = _key(None, value_checks.positive)
    rope_parameters: Any = _key(None, value_checks.rope)
    model_type: Any = _key(None, value_checks.text)


@attrs.frozen(kw_only=True)
class Quantization:
    """The quantization of a model; layers with their own settings have their names as keys."""

    bits: Any = _key(None, value_checks.count(16))
    group_size: Any = _key(None, value_checks.count(value_checks.WIDEST))
    mode: Any = _key(None, value_checks.text)


@attrs.frozen(kw_only=True)
class Parts(TextPart):
    """The parts of a model; keys of the language model may also be at the top."""

    text_config: TextPart | None = _key()
    llm_config: TextPart | None = _key()
    vision_config: VisionPart | None = _key()
    audio_config: Any = _key(None, value_checks.mapping)


@attrs.frozen(kw_only=True)
class ModelFile(Parts):
    """config.json."""

    model_type: Any = _key(None, value_checks.family_name)
    architectures: Any = _key(None, value_checks.texts)
    auto_map: Any = _key(None, value_checks.mapping)
    model_file: Any = _key(None, value_checks.text)
    thinker_config: Parts | None = _key()
    perceiver_config: Any = _key(None, value_checks.mapping)
    projector_config: Any = _key(None, value_checks.mapping)
    quantization: Quantization | None = _key()
    quantization_config: Any = _key(None, value_checks.mapping)


@attrs.frozen(kw_only=True)
class ImageProcessorFile:
    """preprocessor_config.json, and the same part of processor_config.json."""

    image_processor_type: Any = _key(None, value_checks.text)
    processor_class: Any = _key(None, value_checks.text)
    image_mean: Any = _key(None, value_checks.numbers)
    image_std: Any = _key(None, value_checks.scales)
    rescale_factor: Any = _key(None, value_checks.positive)
    patch_size: Any = _key(None, value_checks.size)
    merge_size: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    temporal_patch_size: Any = _key(None, value_checks.counts(value_checks.WIDEST))
    size: Any = _key(None, value_checks.size)
    crop_size: Any = _key(None, value_checks.size)
    min_pixels: Any = _key(None, value_checks.count(2**53, least=0))
    max_pixels: Any = _key(None, value_checks.count(2**53))
    image_processor: Any = _key(None, value_checks.mapping)
    chat_template: Any = _key(None, value_checks.template)


@attrs.frozen(kw_only=True)
class TokenizerFile:
    """tokenizer_config.json."""

    tokenizer_class: Any = _key(None, value_checks.text)
    chat_template: Any = _key(None, value_checks.template)
    added_tokens_decoder: Any = _key(None, value_checks.mapping)
    model_max_length: Any = _key(None, value_checks.number)
    padding_side: Any = _key(None, value_checks.text)
    bos_token: Any = _key(None, value_checks.token)
    eos_token: Any = _key(None, value_checks.token)
    pad_token: Any = _key(None, value_checks.token)
    unk_token: Any = _key(None, value_checks.token)


@attrs.frozen(kw_only=True)
class GenerationFile:
    """generation_config.json."""

    eos_token_id: Any = _key(None, value_checks.ids)
    temperature: Any = _key(None, value_checks.not_negative)
    top_p: Any = _key(None, value_checks.not_negative)
    top_k: Any = _key(None, value_checks.number)


@attrs.frozen(kw_only=True)
class TemplateFile:
    """chat_template.json."""

    chat_template: Any = _key(None, value_checks.template)


@attrs.frozen(kw_only=True)
class IndexFile:
    """model.safetensors.index.json."""

    weight_map: Any = _key(attrs.NOTHING, value_checks.shards)


@attrs.frozen(kw_only=True)
class LoraParameters:
    """The parameters that all adapters of a configuration share."""

    rank: int = _key(attrs.NOTHING, checks.within(1, 2**16))
    scale: float = _key(attrs.NOTHING)
    dropout: float = _key(0.0, checks.fraction)
    keys: tuple[str, ...] | None = _key()


@attrs.frozen(kw_only=True)
class AdapterFile:
    """adapter_config.json, as mlx-vlm and vlora write it; rank, alpha and dropout are those of mlx-vlm's first ones."""

    fine_tune_type: Any = _key(None, value_checks.text)
    lora_parameters: LoraParameters | None = _key()
    adapted_layers: tuple[str, ...] | None = _key()
    trained_tables: tuple[str, ...] | None = _key()
    added_tokens: tuple[str, ...] | None = _key(None, checks.tokens)
    num_layers: Any = _key(None, value_checks.count(value_checks.MOST_LAYERS, least=-1))
    rank: Any = _key(None, value_checks.count(2**16))
    alpha: Any = _key(None, value_checks.positive)
    dropout: float = _key(0.0, checks.fraction)
    base_quantization: Any = _key(None, value_checks.schemes)
    base: Any = _key(None, value_checks.mapping)


SCHEMAS: Mapping[str, type] = {
    "config.json": ModelFile,
    "preprocessor_config.json": ImageProcessorFile,
    "processor_config.json": ImageProcessorFile,
    "tokenizer_config.json": TokenizerFile,
    "generation_config.json": GenerationFile,
    "chat_template.json": TemplateFile,
    "model.safetensors.index.json": IndexFile,
    "adapter_config.json": AdapterFile,
}
"""Name of a file to its schema."""

_CONVERTER = make_converter(
    [TextPart, VisionPart, Parts, Quantization, LoraParameters, *dict.fromkeys(SCHEMAS.values())], is_open=True
)


def find_problems(found: Mapping[str, Any], schema: type) -> list[str]:
    """Return the errors of a file's content, each with its key, the value found and the expected one."""
    try:
        _CONVERTER.structure(found, schema)
    except ClassValidationError as error:
        return list(explain(error, Known(), found))
    return list(_find_lists(found, found.get("model_type"))) if schema is ModelFile else []


def _find_lists(part: Mapping[str, Any], model_type: Any, name: str = "") -> Iterator[str]:
    """Yield an error for each list of thetas that a model does not read, or that is too short for its layers."""
    theta, n_layers = part.get("rope_theta"), part.get("num_hidden_layers") or 0
    if isinstance(theta, list):
        # The families' files import mlx-vlm, which other files of settings do without.
        from ..families.registry import describe_family

        has_thetas = describe_family(str(model_type)).forward.has_thetas
        if not has_thetas or len(theta) < n_layers:
            each = f", or one for each of {n_layers} layers" if has_thetas else ""
            yield f"{name}rope_theta: found {theta!r}, must be a number greater than 0{each}"
    for inner in ("text_config", "thinker_config"):
        if isinstance(part.get(inner), Mapping):
            yield from _find_lists(part[inner], model_type, f"{name}{inner}.")
