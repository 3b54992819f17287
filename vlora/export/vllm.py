"""What vLLM takes of an adapter in PEFT's layout. Pure."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ModelError
from ..models.published.peft_layout import BEFORE, FUSE
from .peft import PeftAdapter
from .vllm_classes import LANGUAGE, STACKED, TOWERS, WITHOUT_LORA

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""

NESTED = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model")
"""Towers whose layers lie one level deeper in vLLM than in transformers 5: as they were published."""

TOWER, DEEPER = "model.vision_tower.", "model.vision_tower.vision_model."

THINKER = {
    "model.language_model.": "thinker.model.",
    "model.visual.": "thinker.visual.",
    "lm_head": "thinker.lm_head",
}
"""Of Qwen3-Omni vLLM knows the names of the whole model, as they were published, and not those of its part."""


PUBLISHED = frozenset(
    {
        "DeepseekOCR2ForCausalLM",
        "Ernie4_5_VLMoeForConditionalGeneration",
        "Molmo2ForConditionalGeneration",
        "UnlimitedOCRForCausalLM",
    }
)
"""Architectures whose classes know layers by published names, where transformers has others, or has parts of them."""


EXPERTS_RENAMED = frozenset({"Ernie4_5_VLMoeForConditionalGeneration"})
"""Architectures whose classes rename experts where they load weights, and not where they read an adapter's names."""


_TOWER_GATES = re.compile(r"\.visual\..*\.(gate|up)_proj$")

UNFOUND = {
    "Gemma4ForConditionalGeneration": re.compile(r"\.vision_tower\..*\.linear$"),
    "Gemma4UnifiedForConditionalGeneration": re.compile(r"\.embed_vision\."),
    "Lfm2VlForConditionalGeneration": re.compile(r"\.language_model\..*\.conv\."),
    "PaliGemmaForConditionalGeneration": re.compile(r"\.multi_modal_projector\."),
    "Glm4vForConditionalGeneration": _TOWER_GATES,
    "GlmOcrForConditionalGeneration": _TOWER_GATES,
    "Glm5NextForConditionalGeneration": re.compile(
        r"\.layers\..*\.((q|k|v|b|f_a|f_b|g_a|q_a)_proj|kv_a_proj_with_mqa)$"
    ),
}
"""Layers of architectures that vLLM does not find by an adapter's names.

Most it joins with others, and its class's `packed_modules_mapping` lacks their names; the others lie elsewhere in its
class, or are layers of torch's there. It refuses the whole folder then ("expected target modules",
vllm/lora/lora_model.py), or passes such a layer over.
"""


def is_named_as_published(config: Mapping[str, Any]) -> bool:
    """Whether vLLM knows the layers of a model by the names of its checkpoint, and not by transformers'.

    Args:
        config: The base's config.json.
    """
    return not PUBLISHED.isdisjoint(config.get("architectures") or ())


def to_vllm(adapter: PeftAdapter, config: Mapping[str, Any]) -> PeftAdapter:
    """Call modules as vLLM finds them; a name that it does not find it passes over.

    Args:
        adapter: In PEFT's layout.
        config: The base's config.json.

    Raises:
        ModelError: What vLLM does not take, and what to do.
    """
    check_vllm(adapter, config)
    begins = _find_begins(config)
    if not begins:
        return adapter

    def renamed(name: str) -> str:
        begin = next((begin for begin in begins if name.startswith(begin)), "")
        return name if name.startswith(DEEPER) else begins.get(begin, "") + name.removeprefix(begin)

    found = adapter.config
    changed = {
        **found,
        "target_modules": [renamed(name) for name in found["target_modules"]],
        "target_parameters": [renamed(name) for name in found["target_parameters"] or ()] or None,
        **{
            key: {renamed(name.replace("\\.", ".")).replace(".", "\\."): value for name, value in found[key].items()}
            for key in ("rank_pattern", "alpha_pattern")
        },
    }
    arrays = {BEFORE + renamed(name.removeprefix(BEFORE)): value for name, value in adapter.arrays.items()}
    return attrs.evolve(adapter, arrays=arrays, config=changed)


def _find_begins(config: Mapping[str, Any]) -> Mapping[str, str]:
    """Give how names begin in transformers that begin otherwise in vLLM, and how they do there."""
    if config.get("model_type") == "qwen3_omni_moe":
        return THINKER
    return {TOWER: DEEPER} if (config.get("vision_config") or {}).get("model_type") in NESTED else {}


def check_vllm(adapter: PeftAdapter, config: Mapping[str, Any]) -> None:
    """Refuse what vLLM refuses, or passes over without an error.

    Args:
        adapter: In PEFT's layout.
        config: The base's config.json.

    Raises:
        ModelError: What it does not take, and what to do.
    """
    kind, found = _architecture(config), adapter.config
    largest = max([found["r"], *found["rank_pattern"].values()])
    outside = adapter.outside
    reasons = (
        (found["use_dora"], "vLLM takes no DoRA"),
        (found["modules_to_save"], "vLLM takes no embeddings, heads or other layers that were trained whole"),
        (largest > RANKS[-1], f"vLLM takes ranks up to {RANKS[-1]}, and the adapter has {largest}"),
        (kind in WITHOUT_LORA, f"vLLM takes no adapters of {kind} models"),
        (kind not in LANGUAGE | TOWERS, f"vLLM 0.33 has no class for {kind} models"),
        (
            outside and kind not in TOWERS,
            f"vLLM passes over adapters of {kind} towers and connectors, as on {next(iter(outside), '')}",
        ),
        (
            kind in EXPERTS_RENAMED and any(".mlp.experts." in name for name in found["target_modules"]),
            f"vLLM finds no experts of {kind} models by an adapter's names",
        ),
        (
            (lost := _find_lost(adapter, kind)) is not None,
            f"vLLM does not find {lost} of {kind} models by an adapter's names",
        ),
        (
            (alien := _find_alien_stack(adapter)) is not None,
            f"vLLM takes experts with gates, with adapters of all their layers, and {alien} has others",
        ),
    )
    for applies, reason in reasons:
        if applies:
            msg = f"--to vllm: {reason}; {FUSE}"
            raise ModelError(msg)


def _find_lost(adapter: PeftAdapter, kind: str) -> str | None:
    """Find a layer that the class of an architecture does not find; None if there is none."""
    pattern = UNFOUND.get(kind)
    return next((name for name in adapter.config["target_modules"] if pattern and pattern.search(name)), None)


def _stacks(adapter: PeftAdapter) -> list[str]:
    """Name the modules of which stacks of experts have adapters."""
    parameters = adapter.config["target_parameters"] or ()
    return sorted({name.rpartition(".")[0] for name in parameters if not name.endswith(".weight")})


def _find_alien_stack(adapter: PeftAdapter) -> str | None:
    """Find experts whose stacks vLLM would read otherwise than they are; None if there are none.

    It takes the outer factors for those of the outputs, and half of the inner ones' rows for the gates
    (vllm/lora/model_manager.py, `_stack_moe_lora_weights` and `_convert_3d_to_2d_moe_lora`). In others' place stand
    stacks whose matrices multiply from the right, and experts without gates.
    """
    for module in _stacks(adapter):
        inner, outer = f"{BEFORE}{module}.base_layer.lora_", f"{BEFORE}{module}.lora_"
        if f"{inner}A.weight" not in adapter.arrays:
            return module
        (n_joined, _), (_, n_inputs) = (adapter.arrays[f"{inner}{which}.weight"].shape for which in "BA")
        (n_outputs, _), (_, n_values) = (adapter.arrays[f"{outer}{which}.weight"].shape for which in "BA")
        if (n_joined, n_inputs) != (2 * n_values, n_outputs):
            return module
    return None


def _architecture(config: Mapping[str, Any]) -> str:
    """Name the base's architecture, by which vLLM finds its class.

    Raises:
        ModelError: It names none.
    """
    found = config.get("architectures")
    if not isinstance(found, list) or not found:
        msg = (
            "--to vllm: the base's config.json has no architectures, by which vLLM finds its class; name the published "
        )
        raise ModelError(msg + "model with --base")
    return str(found[0])


def vllm_usage(adapter: PeftAdapter, folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Write the command that serves an adapter.

    Args:
        adapter: In vLLM's layout.
        folder: Where it is.
        config: The base's config.json.
    """
    found = adapter.config
    largest = max([found["r"], *found["rank_pattern"].values()])
    rank = next(rank for rank in RANKS if rank >= largest)
    options = " --enable-tower-connector-lora" if adapter.outside else ""
    base, named = found["base_model_name_or_path"], f"tuned={folder}"
    if _stacks(adapter) and _architecture(config) not in STACKED:
        # Other classes refuse stacks of experts unless they are told of them.
        options += " --enable-mixed-moe-lora-format"
        named = shlex.quote(json.dumps({"name": "tuned", "path": str(folder), "is_3d_lora_weight": True}))
    return [f"vllm serve {base} --enable-lora --max-lora-rank {rank}{options} --lora-modules {named}"]


def find_vllm_rank(config: Mapping[str, Any]) -> int | None:
    """Find what `--max-lora-rank` has to be at least for an adapter of vlora's.

    Layers that are parts of one in transformers are exported with their ranks added up, which `vllm_usage` counts.

    Args:
        config: Its adapter_config.json.

    Returns:
        None if vLLM takes no such adapter: DoRA, parts that were trained whole, or a rank above its largest.
    """
    is_plain = config.get("fine_tune_type") == "lora"
    if not is_plain or any(config.get(key) for key in ("trained_tables", "train_vision", "added_tokens")):
        return None
    own = (config.get("lora_parameters") or {}).get("rank")
    return next((rank for rank in RANKS if isinstance(own, int) and rank >= own), None)
