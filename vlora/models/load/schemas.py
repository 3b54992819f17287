"""What the JSON files of models and adapters may say, as far as anything here depends on it. Pure.

Keys that are not listed here are their families' own, and stay as they are. What is known is checked as recipes are:
nothing is coerced, and all that is wrong is said at once.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import attrs
from cattrs import ClassValidationError

from ...recipe import checks
from ...recipe.converter import Check, explain, make_converter, show

MOST_LAYERS = 10_000
MOST_EXPERTS = 100_000
WIDEST = 2**24
"""Beyond what any model has. A width of MLX's own arrays is at most 2**31 - 1."""

MOST = 2**31 - 1


def _key(default: Any = None, check: Check | None = None) -> Any:
    return attrs.field(default=default, metadata={"check": check})


def _count(most: int, *, least: int = 1) -> Check:
    """A count; null is said to be absent."""

    def check(value: Any) -> str | None:
        is_one = value is None or (type(value) is int and least <= value <= most)
        return None if is_one else f"must be an integer from {least} to {most}"

    return check


def _counts(most: int) -> Check:
    """A count, or one for each layer or side."""

    def check(value: Any) -> str | None:
        items = value if isinstance(value, list) else [value]
        one = _count(most)
        is_right = not any(item is None or one(item) for item in items) or value is None
        return None if is_right else f"must be an integer from 1 to {most}, or a list of such"

    return check


def _number(value: Any) -> str | None:
    is_one = value is None or (type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e300)  # noqa: PLR2004
    return None if is_one else "must be a finite number"


def _not_negative(value: Any) -> str | None:
    return _number(value) or (None if value is None or value >= 0 else "must be at least 0")


def _positive(value: Any) -> str | None:
    return _number(value) or (None if value is None or value > 0 else "must be greater than 0")


def _numbers(value: Any) -> str | None:
    items = value if isinstance(value, list) else [value]
    is_wrong = value == [] or (isinstance(value, list) and None in value) or any(map(_number, items))
    return "must be a finite number, or a list of such" if is_wrong else None


def _scales(value: Any) -> str | None:
    items = value if isinstance(value, list) else [value]
    is_right = value != [] and not any(_positive(item) for item in items) and (value is None or None not in items)
    return None if is_right else "must be a number greater than 0, or a list of such"


def _object(value: Any) -> str | None:
    return None if value is None or isinstance(value, Mapping) else "must be an object"


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, str) else "must be a string"


def _texts(value: Any) -> str | None:
    is_right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return None if value is None or is_right else "must be a list of strings"


def _token(value: Any) -> str | None:
    is_right = value is None or isinstance(value, (str, Mapping))
    return None if is_right else "must be a string, or an object of an added token"


def _ids(value: Any) -> str | None:
    items = value if isinstance(value, list) else [value]
    is_right = value is None or all(type(item) is int and -1 <= item <= MOST for item in items)
    return None if is_right else "must be the id of a token, or a list of such"


def _size(value: Any) -> str | None:
    """The size of an image: a number of pixels, or several under their names."""
    if isinstance(value, Mapping):
        # Of a shortest and a longest edge, say, one may be left open.
        items = [item for item in value.values() if item is not None]
    else:
        items = value if isinstance(value, list) else [] if value is None else [value]
    is_right = value != [] and all(type(item) is int and 0 < item <= MOST for item in items)
    return None if is_right else "must be a number of pixels, or an object or a list of such"


def _name(value: Any) -> str | None:
    is_right = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", value) and ".." not in value
    return None if is_right else "must be the name of a model's family"


def _template(value: Any) -> str | None:
    is_right = value is None or isinstance(value, (str, Mapping)) or not _templates(value)
    return None if is_right else "must be a template, or a list of named ones"


def _templates(value: Any) -> str | None:
    is_right = isinstance(value, list) and all(
        isinstance(item, Mapping) and isinstance(item.get("template"), str) and isinstance(item.get("name"), str)
        for item in value
    )
    return None if is_right else "must be a list of named templates"


def _shards(value: Any) -> str | None:
    """The file of each array: within the folder, wherever that is."""
    if not isinstance(value, Mapping) or not value:
        return "must be an object with the file of each array"
    for array, file in value.items():
        parts = file.split("/") if isinstance(file, str) else []
        if not parts or "\0" in file or "\\" in file or not file.endswith(".safetensors") or {"", ".", ".."} & {*parts}:
            return f"must name a safetensors file within the folder for each array, not {show(file)} for {show(array)}"
    return None


def _rope(value: Any) -> str | None:
    """A rotary embedding, or one for each type of layer."""
    if problem := _object(value):
        return problem
    for key, item in (value or {}).items():
        if key not in _ROPE and (item is None or isinstance(item, (str, bool))):
            # A family's own words and switches.
            continue
        check = _ROPE.get(key, _rope if isinstance(item, Mapping) else _numbers)
        if problem := check(item):
            return f"has {key} = {show(item)}, which {problem}"
    return None


_ROPE: Mapping[str, Check] = {
    "rope_theta": _positive,
    "factor": _positive,
    "partial_rotary_factor": _not_negative,
    "original_max_position_embeddings": _positive,
    "mrope_section": _counts(WIDEST),
    "type": _text,
    "rope_type": _text,
}


@attrs.frozen(kw_only=True)
class TextPart:
    """The language model."""

    hidden_size: Any = _key(None, _count(WIDEST))
    intermediate_size: Any = _key(None, _counts(WIDEST))
    num_hidden_layers: Any = _key(None, _count(MOST_LAYERS))
    num_attention_heads: Any = _key(None, _counts(WIDEST))
    num_key_value_heads: Any = _key(None, _counts(WIDEST))
    head_dim: Any = _key(None, _counts(WIDEST))
    vocab_size: Any = _key(None, _count(MOST))
    num_experts: Any = _key(None, _count(MOST_EXPERTS, least=0))
    num_local_experts: Any = _key(None, _count(MOST_EXPERTS, least=0))
    num_experts_per_tok: Any = _key(None, _count(MOST_EXPERTS, least=0))
    max_position_embeddings: Any = _key(None, _count(2**53))
    rms_norm_eps: Any = _key(None, _positive)
    layer_norm_eps: Any = _key(None, _positive)
    norm_eps: Any = _key(None, _positive)
    rope_theta: Any = _key(None, _positive)
    partial_rotary_factor: Any = _key(None, _not_negative)
    attention_dropout: Any = _key(None, _not_negative)
    initializer_range: Any = _key(None, _not_negative)
    rope_parameters: Any = _key(None, _rope)
    rope_scaling: Any = _key(None, _rope)
    layer_types: Any = _key(None, _texts)
    model_type: Any = _key(None, _text)
    eos_token_id: Any = _key(None, _ids)


@attrs.frozen(kw_only=True)
class VisionPart:
    """The tower."""

    hidden_size: Any = _key(None, _counts(WIDEST))
    intermediate_size: Any = _key(None, _counts(WIDEST))
    num_hidden_layers: Any = _key(None, _counts(MOST_LAYERS))
    depth: Any = _key(None, _counts(MOST_LAYERS))
    num_heads: Any = _key(None, _counts(WIDEST))
    num_attention_heads: Any = _key(None, _counts(WIDEST))
    patch_size: Any = _key(None, _counts(WIDEST))
    spatial_merge_size: Any = _key(None, _counts(WIDEST))
    temporal_patch_size: Any = _key(None, _counts(WIDEST))
    layer_norm_eps: Any = _key(None, _positive)
    rms_norm_eps: Any = _key(None, _positive)
    rope_theta: Any = _key(None, _positive)
    rope_parameters: Any = _key(None, _rope)
    model_type: Any = _key(None, _text)


@attrs.frozen(kw_only=True)
class Quantization:
    """How a model's weights are packed; layers of their own stand under their names."""

    bits: Any = _key(None, _count(16))
    group_size: Any = _key(None, _count(WIDEST))
    mode: Any = _key(None, _text)


@attrs.frozen(kw_only=True)
class Parts(TextPart):
    """What a model is made of; what is said of the language model may stand beside its parts."""

    text_config: TextPart | None = _key()
    llm_config: TextPart | None = _key()
    vision_config: VisionPart | None = _key()
    audio_config: Any = _key(None, _object)


@attrs.frozen(kw_only=True)
class ModelFile(Parts):
    """config.json."""

    model_type: Any = _key(None, _name)
    architectures: Any = _key(None, _texts)
    auto_map: Any = _key(None, _object)
    model_file: Any = _key(None, _text)
    thinker_config: Parts | None = _key()
    perceiver_config: Any = _key(None, _object)
    projector_config: Any = _key(None, _object)
    quantization: Quantization | None = _key()
    quantization_config: Any = _key(None, _object)


@attrs.frozen(kw_only=True)
class ImageProcessorFile:
    """preprocessor_config.json, and the part of processor_config.json that says the same."""

    image_processor_type: Any = _key(None, _text)
    processor_class: Any = _key(None, _text)
    image_mean: Any = _key(None, _numbers)
    image_std: Any = _key(None, _scales)
    rescale_factor: Any = _key(None, _positive)
    patch_size: Any = _key(None, _size)
    merge_size: Any = _key(None, _counts(WIDEST))
    temporal_patch_size: Any = _key(None, _counts(WIDEST))
    size: Any = _key(None, _size)
    crop_size: Any = _key(None, _size)
    min_pixels: Any = _key(None, _count(2**53, least=0))
    max_pixels: Any = _key(None, _count(2**53))
    image_processor: Any = _key(None, _object)
    chat_template: Any = _key(None, _template)


@attrs.frozen(kw_only=True)
class TokenizerFile:
    """tokenizer_config.json."""

    tokenizer_class: Any = _key(None, _text)
    chat_template: Any = _key(None, _template)
    added_tokens_decoder: Any = _key(None, _object)
    model_max_length: Any = _key(None, _number)
    padding_side: Any = _key(None, _text)
    bos_token: Any = _key(None, _token)
    eos_token: Any = _key(None, _token)
    pad_token: Any = _key(None, _token)
    unk_token: Any = _key(None, _token)


@attrs.frozen(kw_only=True)
class GenerationFile:
    """generation_config.json."""

    eos_token_id: Any = _key(None, _ids)
    temperature: Any = _key(None, _not_negative)
    top_p: Any = _key(None, _not_negative)
    top_k: Any = _key(None, _number)


@attrs.frozen(kw_only=True)
class TemplateFile:
    """chat_template.json."""

    chat_template: Any = _key(None, _template)


@attrs.frozen(kw_only=True)
class IndexFile:
    """model.safetensors.index.json."""

    weight_map: Any = _key(attrs.NOTHING, _shards)


@attrs.frozen(kw_only=True)
class LoraParameters:
    """What the adapters of an adapter's configuration share."""

    rank: int = _key(attrs.NOTHING, checks.within(1, 2**16))
    scale: float = _key(attrs.NOTHING)
    dropout: float = _key(0.0, checks.fraction)
    keys: tuple[str, ...] | None = _key()


@attrs.frozen(kw_only=True)
class AdapterFile:
    """adapter_config.json, as mlx-vlm and vlora write it."""

    fine_tune_type: Any = _key(None, _text)
    lora_parameters: LoraParameters | None = _key()
    adapted_layers: tuple[str, ...] | None = _key()
    trained_tables: tuple[str, ...] | None = _key()
    added_tokens: tuple[str, ...] | None = _key(None, checks.tokens)
    num_layers: Any = _key(None, _count(MOST_LAYERS, least=-1))
    base_quantization: Any = _key(None, _object)


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
"""Names of files to what they may say."""

_CONVERTER = make_converter(
    [TextPart, VisionPart, Parts, Quantization, LoraParameters, *dict.fromkeys(SCHEMAS.values())], is_open=True
)


def find_problems(found: Mapping[str, Any], schema: type) -> list[str]:
    """Say what is wrong with what a file says, each with its key, the value found and what is expected."""
    try:
        _CONVERTER.structure(found, schema)
    except ClassValidationError as error:
        return list(explain(error, [], []))
    return []
