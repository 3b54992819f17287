"""What vLLM's own source makes of exported adapters: every name is parsed, and counted. Needs neither vLLM nor a GPU.

pip download --no-deps vllm==0.33.0 && unzip vllm-*.whl 'vllm/*.py' -d /tmp/vllm
python -m tests.golden.vllm_export --work /tmp/golden FAMILY...
python -m tests.golden.vllm_names --source /tmp/vllm/vllm --work /tmp/golden
python -m tests.golden.vllm_names --source /tmp/vllm/vllm --classes vlora/export/vllm_classes.py
"""

import argparse
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .vllm_modules import Class, Modules, registered
from .vllm_source import Source

GATED = ("gate_proj", "down_proj", "up_proj")
"""The layers of an expert."""

N_EXPERTS = 512
"""More experts than any model has here."""

LONGEST = 300
"""What of an error is told; vLLM lists all names."""

STUBS = {"LoRAAdapterNotFoundError": FileNotFoundError, "LoRAModelManager": object, "LoRAModel": object}

HEAD = '''"""Architectures of vLLM 0.33.0's multimodal models, and what of each it adapts.

Written by `python -m tests.golden.vllm_names --classes`, which reads vLLM's source.
"""
'''

MEANINGS = {
    "TOWERS": ("tower", "All parts, with `--enable-tower-connector-lora`."),
    "LANGUAGE": ("language", "The language model: adapters of towers and connectors are passed over."),
    "WITHOUT_LORA": ("none", "Nothing."),
}

STACKS = "They take stacks of experts as they are; the others as a format that is named."


class Reader:
    """How vLLM reads a folder: its own loader and its checks, with the modules that its source says a class has."""

    def __init__(self, source: Source) -> None:
        self._source, self._registry = source, source.registry()
        self._space = source.take("model_executor/models/utils.py", ["WeightsMapper"])
        own = source.take("lora/utils.py", ["parse_fine_tuned_lora_name", "is_base_embedding_weights"])
        packing = source.take("lora/utils.py", ["process_packed_modules_mapping"])
        self._process = packing["process_packed_modules_mapping"]
        helper = source.take("lora/peft_helper.py", ["PEFTHelper"], math=math, os=os, MISSING=MISSING)
        tensors = SimpleNamespace(safe_open=Names, torch=None)
        loading = source.take("lora/lora_model.py", ["LoRAModel"], **own, os=os, safetensors=tensors)
        model = type("Read", (loading["LoRAModel"],), {"from_lora_tensors": staticmethod(list_modules)})
        needed = {"PEFTHelper": helper["PEFTHelper"], "get_adapter_absolute_path": str}
        worker = source.take("lora/worker_manager.py", ["WorkerLoRAManager"], **needed, **STUBS)
        self._worker, self._model, self._parse = worker["WorkerLoRAManager"], model, own["parse_fine_tuned_lora_name"]

    def modules(self, config: Mapping[str, Any]) -> Modules:
        """Find the modules of the class that a model's configuration names."""
        module, name = self._registry[config["architectures"][0]]
        inner = [config.get(key) or {} for key in ("text_config", "language_config", "llm_config", "thinker_config")]
        inner += [one["text_config"] for one in inner if "text_config" in one]
        names = [str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(one.get("model_type"), "")) for one in inner]
        names += [name for one in inner for name in one.get("architectures") or ()]
        root = Class(name, self._source.file(module))
        return Modules(self._source, root, frozenset(registered(self._source, names)))

    def read(self, config: Mapping[str, Any], folder: Path) -> list[str]:
        """Read an exported folder as vLLM does, and give its modules' names there.

        Args:
            config: The model's configuration.
            folder: What `--to vllm` wrote.

        Raises:
            ValueError: vLLM refuses the folder, a name, or the architecture, or has no such module.
        """
        modules = self.modules(config)
        name, file = modules.root.name, modules.root.file
        packed = self._pack(modules)
        mapper = self._source.value(name, file, "hf_to_vllm_mapper", self._space)
        manager = SimpleNamespace(
            supported_lora_modules=modules.supported(),
            packed_modules_mapping=packed,
            model=SimpleNamespace(
                hf_to_vllm_mapper=mapper,
                lora_skip_prefixes=self._source.value(name, file, "lora_skip_prefixes", {}),
            ),
            moe_ep_load_spec=None,
            _validate_moe_lora_format=bool,
            _validate_classification_head_lora=bool,
        )
        worker = SimpleNamespace(
            _adapter_manager=manager,
            _lora_model_cls=self._model,
            max_position_embeddings=None,
            lora_config=SimpleNamespace(max_lora_rank=512, lora_dtype=None),
            vocab_size=None,
        )
        request = SimpleNamespace(lora_path=str(folder), lora_int_id=1, is_3d_lora_weight=True, lora_name="tuned")
        renames = None if mapper is None else mapper.get_rename_mapper()
        keys = self._worker._load_adapter(worker, request).keys
        found = [self._parse(key, renames)[0] for key in keys]
        lost = [key for key in found if not modules.reach(key, packed)]
        if lost or self._source.takes(name, file) == "none":
            msg = f"{name} has none of {lost[:3]} ({len(lost)} names)" if lost else f"{name} takes no LoRA"
            raise ValueError(msg)
        return found

    def _pack(self, modules: Modules) -> dict[str, list[str]]:
        """Give the joined layers as vLLM does, with numbered experts unless the class takes stacks."""
        stacked = self._source.value(modules.root.name, modules.root.file, "is_3d_moe_weight", {})
        experts = [(0, f"experts.{number}.{one}.", 0, 0) for number in range(N_EXPERTS) for one in GATED]
        self._process.__globals__.update(
            is_moe_model=lambda _: modules.has_experts(),
            get_packed_modules_mapping=lambda _: modules.packed(),
            get_moe_expert_mapping=lambda _: experts,
        )
        found: dict[str, list[str]] = self._process(SimpleNamespace(is_3d_moe_weight=bool(stacked)))
        return found


class Names:
    """Stands for an opened file of arrays, of which only the names are read."""

    def __init__(self, path: str, framework: str) -> None:
        del framework
        self._names = read_names(Path(path))

    def __enter__(self) -> Self:
        """Open it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""

    def __iter__(self) -> Iterator[str]:
        """List the names."""
        return iter(self._names)

    def keys(self) -> list[str]:
        """List the names."""
        return self._names

    def get_tensor(self, name: str) -> str:
        """Give what stands for an array: its name."""
        return name


def list_modules(*, tensors: Mapping[str, Any], **_: Any) -> SimpleNamespace:
    """Stand for a read adapter: the names of its arrays, once each."""
    return SimpleNamespace(keys=list(tensors))


def read_names(file: Path) -> list[str]:
    """List the arrays of a file in the format of safetensors."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def list_classes(source: Source) -> dict[str, str]:
    """Say of each architecture what of it vLLM adapts."""
    return {one: source.takes(name, source.file(module)) for one, (module, name) in source.registry().items()}


def list_stacked(source: Source) -> set[str]:
    """Name the architectures whose classes say that they take stacks of experts."""
    found = {one: (name, source.file(module)) for one, (module, name) in source.registry().items()}
    return {one for one, (name, file) in found.items() if source.value(name, file, "is_3d_moe_weight", {})}


def write_names(constant: str, names: Iterable[str], meaning: str) -> str:
    """Write a set of names with what it means."""
    listed = ", ".join(json.dumps(name) for name in sorted(names))
    return f'\n{constant} = frozenset({{{listed}}})\n"""{meaning}"""\n'


def document(classes: Mapping[str, str], stacked: Iterable[str]) -> str:
    """Write the module that export reads."""
    text = HEAD
    for constant, (kind, meaning) in MEANINGS.items():
        text += write_names(constant, {name for name in classes if classes[name] == kind}, meaning)
    return text + write_names("STACKED", stacked, STACKS)


def main() -> int:
    """Count the names of exported folders, or write the list of architectures."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.vllm_names", description=__doc__)
    parser.add_argument("--source", required=True, type=Path, help="the folder of vLLM's package")
    parser.add_argument("--work", type=Path, help="where tests.golden.vllm_export wrote")
    parser.add_argument("--classes", type=Path, help="where to write the list of architectures")
    options = parser.parse_args()
    source = Source(options.source)
    if options.classes:
        options.classes.write_text(document(list_classes(source), list_stacked(source)), encoding="utf-8")
    if not options.work:
        return 0
    reader, counts = Reader(source), dict[str, int]()
    failed: list[Any] = []
    for file in sorted(options.work.glob("*/vllm/*/adapter_config.json")):
        family = file.parents[2].name
        config = json.loads((options.work / family / "model" / "config.json").read_text())
        try:
            found = reader.read(config, file.parent)
            counts[family] = counts.get(family, 0) + len(found)
        except (KeyError, ValueError) as error:
            failed.append(error)
            told = str(error).rpartition("but received")[2][:LONGEST] or str(error)
            print(f"{family} {file.parent.name}: {type(error).__name__}: {told}", flush=True)
    print("\n".join(f"{family}: {count}" for family, count in counts.items()))
    print(f"{sum(counts.values())} names of {len(counts)} families, {len(failed)} folders refused")
    return int(bool(failed) or not counts)


if __name__ == "__main__":
    raise SystemExit(main())
