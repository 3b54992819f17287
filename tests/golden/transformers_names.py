"""What transformers calls the parameters of each family, and how it renames published ones; needs torch, not MLX.

    .venv-reference/bin/python -m tests.golden.transformers_names

It makes each architecture that reads images and writes text on torch's "meta" device, where weights take no memory,
and writes `vlora/models/published/transformers_names.json`. The environment is that of `tests.golden.generate`.
"""

import argparse
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import GroupWeightRename, PermuteForRope
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

TABLE = Path(__file__).parents[2] / "vlora" / "models" / "published" / "transformers_names.json"

TOWERS = {"llava": ("pixtral", "siglip_vision_model"), "mistral3": ("pixtral",), "llava_next": ("siglip_vision_model",)}
"""Towers that published checkpoints of an architecture have besides its default."""


PARTS = {"qwen3_omni_moe": "qwen3_omni_moe_thinker"}
"""Architectures of which a part of its own name reads images and writes text, from the whole's checkpoints."""

OTHERWISE = ("deepseek_ocr2", "ernie4_5_vl_moe", "fast_vlm", "got_ocr2", "inkling_mm_model", "janus", "nemotron_h_omni")
"""Architectures that mlx-vlm calls otherwise (`transformers_names.OWN_NAMES`)."""

SETTINGS: dict[str, Any] = {
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": None}}},
    "deepseek_ocr2": {
        "text_config": {"num_experts_per_tok": 6, "num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"]}
    },
    "granite4_vision": {"deepstack_layer_map": [[-19, 9], [-13, 6], [-7, 3], [-1, 0]], "downsample_rate": "4/8"},
    "hunyuan_vl": {"text_config": {"head_dim": 128}},
    "qwen4_exp": {
        "text_config": {
            **dict.fromkeys(("indexer_n_heads", "indexer_budget", "indexer_compress_ratio"), 4),
            "indexer_kv_heads": 1,
            "indexer_head_dim": 256,
            "eos_token_id": 2,
            "ple_layer_ids": [1],
        }
    },
}
"""What an architecture needs that its default configuration does not give."""

_NECK = ("conv1", "layer_norm1", "conv2", "layer_norm2")
_PATCHES = ((1, 1), (2, 3), (3, 5), (4, 8))
_BEHIND = "model.multi_modal_projector."
PUBLISHED: dict[str, tuple[tuple[str, str], ...]] = {
    "florence2": (
        (r"^language_model\.model(?=\.(?:shared|encoder|decoder)\.)", "model.language_model"),
        (r"^language_model\.lm_head(?=\.)", "lm_head"),
        (r"^vision_tower(?=\.)", "model.vision_tower"),
        (r"convs\.(\d+)\.proj(?=\.)", r"convs.\1.conv"),
        (r"\.fn\.dw(?=\.)", ""),
        (r"(?:window|channel)_attn\.norm(?=\.)", "norm1"),
        (r"ffn\.norm(?=\.)", "norm2"),
        (r"_attn\.fn(?=\.)", "_attn"),
        (r"ffn\.fn\.net(?=\.)", "ffn"),
        (r"^image_pos_embed(?=\.)", f"{_BEHIND}image_position_embed"),
        (r"^image_proj_norm(?=\.)", f"{_BEHIND}image_proj_norm"),
        (r"^visual_temporal_embed(?=\.)", f"{_BEHIND}visual_temporal_embed"),
    ),
    "fast_vlm": (
        (r"^model\.vision_tower\.vision_tower\.model(?=\.)", "model.vision_tower.timm_model"),
        (r"timm_model\.patch_embed(?=\.)", "timm_model.stem"),
        *((rf"network\.{place}(?=\.\d)", f"stages.{stage}.blocks") for stage, place in enumerate((0, 2, 4, 7, 10))),
        *((rf"network\.{place}(?=\.proj)", f"stages.{stage}.downsample") for stage, place in _PATCHES),
        *((rf"network\.{place}(?=\.reparam)", f"stages.{stage}.pos_emb") for stage, place in ((3, 6), (4, 9))),
        (r"lkb_reparam(?=\.)", "reparam_conv"),
        (r"convffn(?=\.)", "mlp"),
        (r"(layer_scale(?:_[12])?)$", r"\1.gamma"),
        (r"conv_exp(?=\.)", "final_conv"),
        (r"se\.reduce(?=\.)", "se.fc1"),
        (r"se\.expand(?=\.)", "se.fc2"),
        (r"^model\.mm_projector\.0(?=\.)", f"{_BEHIND}linear_1"),
        (r"^model\.mm_projector\.2(?=\.)", f"{_BEHIND}linear_2"),
        (r"^model(?=\.(?:embed_tokens|layers|norm)\.)", "model.language_model"),
    ),
    "janus": (
        (r"^vision_model\.vision_tower\.pos_embed$", "model.vision_model.embeddings.position_embedding.weight"),
        (r"^vision_model\.vision_tower\.patch_embed\.proj(?=\.)", "model.vision_model.embeddings.patch_embedding"),
        (r"^vision_model\.vision_tower\.norm(?=\.)", "model.vision_model.post_layernorm"),
        (r"^vision_model\.vision_tower\.blocks(?=\.)", "model.vision_model.encoder.layers"),
        (r"attn\.proj(?=\.)", "attn.projection_layer"),
        (r"(layers\.\d+)\.attn(?=\.)", r"\1.self_attn"),
        (r"(layers\.\d+)\.norm(?=[12]\.)", r"\1.layer_norm"),
        (r"^aligner\.layers\.0(?=\.)", "model.aligner.fc1"),
        (r"^aligner\.layers\.2(?=\.)", "model.aligner.hidden_layers.0"),
        (r"^language_model\.model(?=\.)", "model.language_model"),
        (r"^language_model\.lm_head(?=\.)", "lm_head"),
    ),
    "got_ocr2": (
        (r"^model\.vision_tower_high\.net_2(?=\.)", f"{_BEHIND}conv_upsampler1"),
        (r"^model\.vision_tower_high\.net_3(?=\.)", f"{_BEHIND}conv_upsampler2"),
        (r"^model\.mm_projector_vary(?=\.)", f"{_BEHIND}multimodal_projector"),
        (r"^model\.vision_tower_high(?=\.)", "model.vision_tower"),
        (r"vision_tower\.blocks(?=\.)", "vision_tower.layers"),
        (r"patch_embed\.proj(?=\.)", "patch_embed.projection"),
        (r"\.norm(?=[12]\.)", ".layer_norm"),
        *((rf"neck\.{place}(?=\.)", f"neck.{part}") for place, part in enumerate(_NECK)),
        (r"^model(?=\.(?:embed_tokens|layers|norm)\.)", "model.language_model"),
    ),
}
"""How names of models become transformers' that a script of its repository converts, and not its loading: patterns,
and what stands there instead. Florence-2's (convert_florence2_original_pytorch_to_hf.py) turns the projection besides,
which is no layer in mlx-vlm and has no adapter."""

JOINED = {"janus": "self_attn.qkv"}
"""Layers of attention that such a script divides into queries, keys and values."""

LIKE = {
    "florence2": "florence-community/Florence-2-base",
    "fast_vlm": "KamilaMila/FastVLM-0.5B",
    "janus": "deepseek-community/Janus-Pro-1B",
    "got_ocr2": "stepfun-ai/GOT-OCR-2.0-hf",
}
"""A base that such a script has rewritten."""

UNUSED = re.compile(r"LayerNorm\.(gamma|beta)|\.weight_[gv]")
"""Patterns of names that no family has."""

UNADAPTED = re.compile(r"\.bias$|norm|inv_freq|running_|num_batches|ln_")
"""Parameters that say nothing of where layers lie."""


def described() -> set[str]:
    """List what vlora's descriptions of families speak of, the names of the families among them."""
    folder = TABLE.parents[1] / "families"
    return set(re.findall(r'"([\w-]+)"', "".join(path.read_text() for path in folder.glob("*.py"))))


def configurations() -> Iterator[tuple[str, Any]]:
    """Yield the key and the configuration of every architecture, and of each with another tower."""
    known = described() | set(OTHERWISE)
    for model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        if model_type not in CONFIG_MAPPING_NAMES or model_type not in known:
            continue
        yield model_type, AutoConfig.for_model(model_type, **SETTINGS.get(model_type, {}))
        for tower in TOWERS.get(model_type, ()):
            config = AutoConfig.for_model(model_type, vision_config={"model_type": tower})
            yield f"{model_type}/{tower}", config
    for model_type, part in PARTS.items():
        yield model_type, AutoConfig.for_model(part)


def make_model(config: Any) -> Any:
    """Make an architecture's model without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def describe(model: Any) -> dict[str, Any]:
    """Describe an architecture: its parameters, # for numbers, what is tied, and how it renames published names.

    Beside them stand the modules that PEFT takes for experts wherever they lie, by the ends of their names, a base that
    transformers opens where it does not open the published ones, and the class that opens a checkpoint where
    `AutoModelForImageTextToText` does not.
    """
    templates = {re.sub(r"(?<=\.)\d+(?=\.)", "#", name) for name in model.state_dict()}
    scripted = PUBLISHED.get(model.config.model_type, ())
    steps: list[dict[str, Any]] = [{"pattern": f"(?P<g0>{old})", "targets": [new]} for old, new in scripted]
    steps += [serialize(step, model.config) for step in get_model_conversion_mapping(model)]
    if joined := JOINED.get(model.config.model_type):
        steps.append(
            {
                "pattern": f"(?P<g0>{re.escape(joined)}(?=\\.))",
                "targets": [joined.replace("qkv", f"{part}_proj") for part in "qkv"],
                "sources": [joined],
                "operations": [["Chunk", {"dim": 0}]],
            }
        )
    moved = _MOE_TARGET_MODULE_MAPPING.get(_MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type, ""), {})
    return {
        "prefix": model.base_model_prefix,
        "tied": dict(getattr(model, "_tied_weights_keys", None) or {}),
        "renamings": [step for step in steps if not UNUSED.search(step["pattern"])],
        "parameters": sorted(name for name in templates if not UNADAPTED.search(name)),
        **({"peft_moves": sorted(moved)} if moved else {}),
        **({"like": LIKE[model.config.model_type]} if scripted else {}),
        **({"class": type(model).__name__} if model.config.model_type in PARTS.values() else {}),
    }


def serialize(step: Any, config: Any) -> dict[str, Any]:
    """Write one renaming of a model with this configuration as data."""
    found: dict[str, Any] = {"pattern": step.compiled_sources.pattern, "targets": step.target_patterns}
    if step.scope_prefix is not None:
        found["scope"] = [step.base_model_prefix or "", step.scope_prefix]
    if isinstance(step, GroupWeightRename):
        found["guard"] = step.source_patterns[0]
    if operations := getattr(step, "operations", ()):
        found["sources"] = step.source_patterns
        found["operations"] = [[type(one).__name__, arguments(one, config)] for one in operations]
    return found


def arguments(operation: Any, config: Any) -> dict[str, Any]:
    """List the plain numbers and names of an operation, and the heads of which one orders rows, where none are said."""
    found = {key: value for key, value in vars(operation).items() if isinstance(value, (int, str, bool, list))}
    if isinstance(operation, PermuteForRope):
        found["default_heads"] = getattr(config, operation.subconfig_key or "", config).num_attention_heads
    return found


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.transformers_names", description=__doc__)
    parser.add_argument("families", nargs="*", help="only print these")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    left_out: set[str] = set()
    for key, config in configurations():
        if options.families and key.partition("/")[0] not in options.families:
            continue
        try:
            model = make_model(config)
        except Exception as error:
            # Foreign code that lacks packages, or sizes that no default gives; one that was asked for is not left out.
            if options.families:
                raise
            print(f"{key}: left out, {type(error).__name__}: {str(error)[:100]}", flush=True)
            left_out.add(key)
            continue
        found[key] = describe(model)
    table = {"transformers": transformers.__version__, "architectures": found}
    if options.families:
        print(json.dumps(table, indent=1))
        return
    if lost := sorted(left_out & json.loads(TABLE.read_text())["architectures"].keys()):
        sys.exit(f"nothing is written: the table has {', '.join(lost)}, which cannot be described here (see above)")
    text = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    TABLE.write_text(f'{{"transformers": "{transformers.__version__}", "architectures": {{\n{text}\n}}}}\n')
    print(len(list(itertools.chain(found))), "architectures", TABLE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
