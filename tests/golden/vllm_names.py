"""What vLLM's own source makes of exported adapters: every name is parsed, and counted. Needs neither vLLM nor a GPU.

pip download --no-deps vllm==0.33.0 && unzip vllm-*.whl 'vllm/*.py' -d /tmp/vllm
python -m tests.golden.vllm_export --work /tmp/golden FAMILY...
python -m tests.golden.vllm_names --source /tmp/vllm/vllm --work /tmp/golden
python -m tests.golden.vllm_names --source /tmp/vllm/vllm --classes vlora/export/vllm_classes.py
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .vllm_source import Source

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
    """vLLM's parser and the mappers of its classes."""

    def __init__(self, source: Source) -> None:
        self._source, self._registry = source, source.registry()
        self._space = source.take("model_executor/models/utils.py", ["WeightsMapper"])
        parsing = source.take("lora/utils.py", ["parse_fine_tuned_lora_name"])
        self._parse = parsing["parse_fine_tuned_lora_name"]
        self._helper = source.take("lora/peft_helper.py", ["PEFTHelper"]) | {"math": __import__("math")}
        self._helper["PEFTHelper"]._scaling.__globals__.update(self._helper)

    def read(self, architecture: str, folder: Path) -> list[str]:
        """Read an exported folder as vLLM does, and give its modules' names there.

        Raises:
            ValueError: vLLM refuses the folder, a name, or the architecture, or has no such module.
        """
        module, name = self._registry[architecture]
        file = self._source.file(module)
        helper = self._helper["PEFTHelper"]
        config = json.loads((folder / "adapter_config.json").read_text())
        known = {one.name for one in fields(helper)}
        problems = helper(**{key: value for key, value in config.items() if key in known})._validate_features()
        mapper = self._source.value(name, file, "hf_to_vllm_mapper", self._space)
        renames = None if mapper is None else mapper.get_rename_mapper()
        found = [self._parse(key, renames)[0] for key in read_names(folder / "adapter_model.safetensors")]
        parts = self._source.parts(name, file)
        problems += [f"{name} has no {key}" for key in found if key.partition(".")[0] not in parts or is_misplaced(key)]
        if problems or self._source.takes(name, file) == "none":
            msg = f"{folder}: {problems[:2] or f'{name} takes no LoRA'}"
            raise ValueError(msg)
        return found


def is_misplaced(name: str) -> bool:
    """Whether a language model's layer lies where none does: behind its prefix, vLLM's have `model` and `lm_head`."""
    first, *rest = name.split(".")
    is_inner = first == "language_model" and rest[:1] not in (["model"], ["lm_head"])
    return is_inner or "language_model" in rest[:2]


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
            found = reader.read(config["architectures"][0], file.parent)
            counts[family] = counts.get(family, 0) + len(found)
        except (KeyError, ValueError) as error:
            failed.append(error)
            print(f"{family} {file.parent.name}: {type(error).__name__}: {error}", flush=True)
    print("\n".join(f"{family}: {count}" for family, count in counts.items()))
    print(f"{sum(counts.values())} names of {len(counts)} families, {len(failed)} folders refused")
    return int(bool(failed) or not counts)


if __name__ == "__main__":
    raise SystemExit(main())
