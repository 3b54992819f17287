"""What transformers 5 calls the weights of a checkpoint: it renames some and joins others as it loads them.

The rules are transformers' own, written into `transformers_names.json` by `tests/golden/transformers_names.py`, because
transformers gives them only where torch is installed.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

TABLE = Path(__file__).with_name("transformers_names.json")

HEADS = ("num_attention_heads", "heads", "num_heads")
"""How configurations call the number of heads."""

WITHOUT: Mapping[str, str] = {"granite4_vision": "shared_mlp"}
"""Parts that published models of an architecture may have, and transformers' never: the layers of a hybrid Granite."""

WITH_NORM: Mapping[str, str] = {"inkling": "model.language_model.embed_tokens.weight"}
"""Tables of an architecture in whose module transformers has a norm too, which PEFT trains and saves with them."""

OWN_NAMES: Mapping[str, str] = {
    "deepseekocr_2": "deepseek_ocr2",
    "ernie4_5_moe_vl": "ernie4_5_vl_moe",
    "fastvlm": "fast_vlm",
    "got": "got_ocr2",
    "inkling": "inkling_mm_model",
    "multi_modality": "janus",
    "nemotron_h_nano_omni": "nemotron_h_omni",
}
"""What transformers calls architectures that mlx-vlm calls otherwise."""

AUTO = "AutoModelForImageTextToText"
"""transformers' class that opens checkpoints of most architectures."""

Weights = Mapping[str, mx.array]


@functools.cache
def _architectures() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))["architectures"]
    return found


@attrs.frozen
class _Step:
    """One of transformers' rules.

    Attributes:
        pattern: What it finds in a name: one named group for each of its sources.
        targets: What it puts there instead, for each source if there are as many, else the first.
        scope: The names that it sees, and how they may begin; None if it sees all.
        guard: A source without which the rule does not act on any name; None if it has no such.
        sources: Its sources, where it computes.
        operations: What it computes, and how.
    """

    pattern: re.Pattern[str]
    targets: tuple[str, ...]
    scope: tuple[str, str] | None
    guard: str | None
    sources: tuple[str, ...]
    operations: tuple[tuple[str, Mapping[str, Any]], ...]

    @classmethod
    def load(cls, found: Mapping[str, Any]) -> "_Step":
        return cls(
            re.compile(found["pattern"]),
            tuple(found["targets"]),
            tuple(found["scope"]) if "scope" in found else None,
            found.get("guard"),
            tuple(found.get("sources", ())),
            tuple((name, settings) for name, settings in found.get("operations", ())),
        )

    def match(self, name: str) -> tuple[str, str, re.Match[str]] | None:
        """Find the pattern: what stands before the part that the rule sees, that part, and the match."""
        before = ""
        if self.scope is not None:
            base, scope = (f"{part}." if part else "" for part in self.scope)
            if name.startswith(base + scope):
                before = base + scope
            elif name.startswith(scope):
                before = scope
            else:
                return None
        seen = name[len(before) :]
        found = self.pattern.search(seen)
        return None if found is None else (before, seen, found)

    def rename(self, name: str) -> tuple[str, str | None]:
        """Rename one; the second is the source that was found, None if none was."""
        matched = self.match(name)
        if matched is None:
            return name, None
        before, seen, found = matched
        group = next(key for key, value in found.groupdict().items() if value is not None)
        number = int(group[1:])
        target = self.targets[number] if self.guard is not None else self.targets[0]
        start = self.pattern.groupindex[group]
        target = re.sub(r"\\(\d+)", lambda place: found.group(start + int(place.group(1))), target).replace("\\.", ".")
        source = self.sources[number] if self.sources else group
        return before + seen.replace(found.group(0), target, 1), source


class TransformersNames:
    """How transformers reads one architecture.

    Attributes:
        tied: Parameters that are others.
        taken_for_experts: Last parts of the names of modules that PEFT takes for parts of its experts, wherever they
            lie (peft/utils/transformers_weight_conversion.py, `_MOE_TARGET_MODULE_MAPPING`).
        opener: transformers' class that opens a checkpoint.
        like: A base in transformers' layout, where it opens the published ones only as a script rewrites them.
    """

    def __init__(self, found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Take an entry of the table, and the model's config.json."""
        self._config = config
        self._prefix: str = found["prefix"]
        self.tied: Mapping[str, str] = found["tied"]
        self.taken_for_experts: frozenset[str] = frozenset(found.get("peft_moves", ()))
        self.opener: str = found.get("class", AUTO)
        self.like: str | None = found.get("like")
        self._known = frozenset(found["parameters"])
        steps = [_Step.load(step) for step in found["renamings"]]
        self._renamings = [step for step in steps if not step.operations]
        self._converters = [step for step in steps if step.operations]

    def knows(self, name: str) -> bool:
        """Whether a parameter of that name, whatever its numbers, is one of the architecture's."""
        return re.sub(r"(?<=\.)\d+(?=\.)", "#", name) in self._known

    def rename(self, name: str, among: Iterable[str] = ()) -> str:
        """Give a weight the name that it has in transformers, where nothing is computed.

        Args:
            name: As it was published, by whatever version.
            among: All names of the checkpoint, which decide whether some rules act.
        """
        return self._rename(name, self._acting(among))

    def _acting(self, names: Iterable[str]) -> list[_Step]:
        names = list(names)
        return [
            step for step in self._renamings if step.guard is None or any(re.search(step.guard, name) for name in names)
        ]

    def _rename(self, name: str, steps: list[_Step]) -> str:
        for step in steps:
            name, _ = step.rename(name)
        if not self.knows(name):
            shorter, longer = name.removeprefix(f"{self._prefix}."), f"{self._prefix}.{name}"
            name = next((other for other in (shorter, longer) if self.knows(other)), name)
        return name

    def spell_for_peft(self, name: str) -> str:
        """Spell a parameter's name so that PEFT arrives at it.

        PEFT renames what an adapter's file names as if it were published (peft/utils/transformers_weight_conversion.py,
        `convert_peft_adapter_state_dict_for_transformers`). Rules of Unlimited-OCR act once more on names that they
        have made, so that not even an adapter that PEFT has written can be opened: such names lack one part here.
        """
        renamed = self._follow(name)
        if renamed == name or self.knows(renamed):
            return name
        parts = name.split(".")
        shorter = (".".join([*parts[:place], *parts[place + 1 :]]) for place in range(len(parts)))
        return next((other for other in shorter if self._follow(other) == name), name)

    def _follow(self, name: str) -> str:
        for step in self._renamings:
            if step.guard is None:
                name, _ = step.rename(name)
        return name

    def turns(self, name: str) -> bool:
        """Whether transformers turns a stack of matrices where it is not of the shape that its own has."""
        return any(
            settings.get("check_dims") and step.match(name) is not None
            for step in self._converters
            for _, settings in step.operations
        )

    def convert(self, weights: Weights) -> dict[str, mx.array]:
        """Rename and join weights as transformers does.

        Those that it computes in ways which are not known here are left out.
        """
        steps = self._acting(weights)
        made: dict[str, mx.array] = {}
        waiting: dict[str, tuple[_Step, dict[str, list[mx.array]]]] = {}
        for name in sorted(weights, key=_in_order):
            renamed = self._rename(name, steps)
            for converter in self._converters:
                target, source = converter.rename(renamed)
                if source is not None:
                    _, given = waiting.setdefault(target, (converter, {}))
                    given.setdefault(source, []).append(weights[name])
                    break
            else:
                made[renamed] = weights[name]
        for target, (converter, given) in waiting.items():
            made.update(_compute(converter, target, given, self._config))
        return made


def find_transformers_names(config: Mapping[str, Any], family: str = "") -> TransformersNames | None:
    """Find how transformers reads a model; None if it does not know the architecture without code from elsewhere.

    Args:
        config: Its config.json.
        family: mlx-vlm's name of the architecture, for models that spell it otherwise ("unlimited-ocr").
    """
    if "vision_config" in config and "gen_vision_config" not in config and family == "multi_modality":
        # DeepSeek-VL, which Janus shares its name with, and not its layout in transformers.
        return None
    tower = (config.get("vision_config") or {}).get("model_type")
    entry = _find_entry(str(config.get("model_type")), tower) or _find_entry(family, tower)
    return None if entry is None else TransformersNames(entry, config)


def _find_entry(kind: str, tower: str | None) -> Mapping[str, Any] | None:
    found = _architectures()
    if kind == "pixtral":
        # mlx-vlm's name of a LLaVA whose tower is Pixtral's.
        kind, tower = "llava", "pixtral"
    kind = OWN_NAMES.get(kind, kind)
    entry: Mapping[str, Any] | None = found.get(f"{kind}/{tower}") or found.get(kind)
    return entry


def _in_order(name: str) -> list[tuple[int, int, str]]:
    """Sort numbers in names as numbers."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def _compute(
    step: _Step, target: str, given: dict[str, list[mx.array]], config: Mapping[str, Any]
) -> dict[str, mx.array]:
    """Do what a rule computes; the first of its targets stands in the name."""
    arrays = [value for source in step.sources for value in given.get(source, ())]
    stacks = [given[source] for source in step.sources if source in given]
    made = [arrays[0]]
    for name, settings in step.operations:
        axis = settings.get("dim", 0)
        if name == "MergeModulelist":
            arrays = [mx.stack(stack, axis=axis) for stack in stacks]
            made = arrays[:1]
        elif name == "ErnieFuseAndSplitTextVisionExperts":
            # Half of the experts read text, the others images.
            made = [
                mx.concatenate(
                    [mx.stack(half, axis=settings["stack_dim"]) for half in halves], axis=settings["concat_dim"]
                )
                for halves in zip(*(_halve(stack) for stack in stacks), strict=True)
            ]
        elif name == "Concatenate" and not settings.get("num_shards_attribute"):
            made = [mx.concatenate(arrays, axis=axis)]
        elif name == "Chunk" and not settings.get("num_shards_attribute"):
            made = list(mx.split(made[0], len(step.targets), axis=axis))
        elif name == "Split":
            ends = np.cumsum([_count_rows(part, config) for part in step.targets]).tolist()
            if ends[-1] != made[0].shape[axis]:
                return {}
            made = list(mx.split(made[0], ends[:-1], axis=axis))
        elif name in ("Interleave", "Transpose"):
            made = [_part_rows(made[0], axis) if name == "Interleave" else _turn(made[0], settings)]
        elif name == "PermuteForRope" and not settings["inverse"]:
            apart = settings.get("permute_layer_names") or [""]
            made = [
                _part_pairs(value, settings, config) if any(layer in part for layer in apart) else value
                for part, value in zip(step.targets, made, strict=True)
            ]
        else:
            return {}
    first = step.targets[0].replace("\\.", ".")
    return {
        target.replace(first, part.replace("\\.", "."), 1): value
        for part, value in zip(step.targets, made, strict=True)
    }


def _turn(array: mx.array, settings: Mapping[str, Any]) -> mx.array:
    """Turn a matrix; where that depends on its shape, which axis is which is told by the places of the numbers."""
    return array if settings.get("check_dims") else array.swapaxes(settings["dim0"], settings["dim1"])


def _part_rows(array: mx.array, axis: int) -> mx.array:
    """Put rows of two kinds apart that stand by turns."""
    pairs = array.reshape(*array.shape[:axis], -1, 2, *array.shape[axis + 1 :])
    return pairs.swapaxes(axis, axis + 1).reshape(array.shape)


def _halve(stack: list[mx.array]) -> tuple[list[mx.array], list[mx.array]]:
    first = -(-len(stack) // 2)
    return stack[:first], stack[first:]


def _count_rows(target: str, config: Mapping[str, Any]) -> int:
    """Count the rows of a projection of attention in the language model; 0 for other parameters."""
    section = config.get("text_config") or config
    heads: int = section.get("num_attention_heads", 0)
    n_keys: int = section.get("num_key_value_heads") or heads
    width: int = section.get("head_dim") or section.get("hidden_size", 0) // max(heads, 1)
    counts = {"q_proj": heads, "k_proj": n_keys, "v_proj": n_keys}
    return counts.get(target.removesuffix(".weight").rpartition(".")[2], 0) * width


def _part_pairs(rows: mx.array, settings: Mapping[str, Any], config: Mapping[str, Any]) -> mx.array:
    """Order each head's rows as a rotation of halves takes them, which were published for one of neighbours."""
    section = config.get(settings["subconfig_key"]) or {} if settings.get("subconfig_key") else config
    heads = next((section[key] for key in HEADS if key in section), settings["default_heads"])
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
