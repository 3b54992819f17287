"""vLLM's own source, read without running vLLM: its classes, how they rename weights, and how it reads LoRA's names.

Imports of vLLM need a GPU's libraries. What is needed of it is pure: parts are taken out of its files and executed.
"""

import ast
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

Found = tuple[ast.ClassDef, Path]


class _Silent:
    """A logger that says nothing."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


NAMES: Mapping[str, Any] = {
    "dataclass": dataclass,
    "field": field,
    "fields": fields,
    "replace": replace,
    "re": re,
    "json": json,
    "logger": _Silent(),
    "Mapping": Mapping,
    "Iterable": Iterable,
    "Literal": Literal,
    "Any": Any,
    "ShardIds": object,
    "contextmanager": contextmanager,
}
"""What the parts of vLLM's source that are executed refer to."""


@dataclass(frozen=True)
class Source:
    """The source of an installed or unpacked vLLM.

    Attributes:
        root: Its package's folder.
    """

    root: Path

    def take(self, file: str, names: Iterable[str], **space: Any) -> dict[str, Any]:
        """Execute functions and classes of a file, and nothing else of it; they refer to `space` besides."""
        tree = ast.parse((self.root / file).read_text(encoding="utf-8"))
        body = [node for node in tree.body if getattr(node, "name", None) in set(names)]
        space = {**NAMES, **space}
        exec("from __future__ import annotations\n" + ast.unparse(ast.Module(body, [])), space)
        return space

    @functools.cache  # noqa: B019 - one source is read, to the end
    def registry(self, name: str = "_MULTIMODAL_MODELS") -> dict[str, tuple[str, str]]:
        """Read the classes of models of a kind: {architecture: (module, class)}."""
        tree = ast.parse((self.root / "model_executor/models/registry.py").read_text(encoding="utf-8"))
        found = [node.value for node in tree.body if isinstance(node, ast.Assign) and _name(node) == name]
        return dict(ast.literal_eval(found[0]))

    def file(self, module: str) -> Path:
        """Find a module of the registry."""
        if module.startswith("vllm."):
            return self._existing(self.root.parent / module.replace(".", "/"))
        return self.root / "model_executor/models" / f"{module}.py"

    def bases(self, name: str, file: Path) -> Iterator[Found | str]:
        """List a class and its bases in Python's order, near enough; those outside of vLLM by name."""
        found = self.find(name, file)
        if found is None:
            yield name
            return
        yield found
        for base in found[0].bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            yield from self.bases(getattr(plain, "id", ""), found[1])

    def find(self, name: str, file: Path) -> Found | None:
        """Find a class in a file, or where the file imports it from."""
        found = self.definition(name, file)
        return (found[0], found[1]) if found and isinstance(found[0], ast.ClassDef) else None

    @functools.cache  # noqa: B019 - one source is read, to the end
    def definition(self, name: str, file: Path) -> tuple[ast.stmt, Path] | None:
        """Find a class, function or constant in a file, or where the file imports it from."""
        nodes = _statements(file)
        for node in nodes:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return node, file
            if isinstance(node, ast.Assign | ast.AnnAssign) and _name(node) == name:
                return node, file
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and any((part.asname or part.name) == name for part in node.names):
                other = self._imported(node, file)
                if other is not None:
                    own = next(part.name for part in node.names if (part.asname or part.name) == name)
                    return self.definition(own, other)
        return None

    def _imported(self, node: ast.ImportFrom, file: Path) -> Path | None:
        parts = (node.module or "").replace(".", "/")
        start = file.parents[node.level - 1] if node.level else self.root.parent
        other = start / parts
        return self._existing(other) if other.with_suffix(".py").exists() or other.is_dir() else None

    @staticmethod
    def _existing(path: Path) -> Path:
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def value(self, name: str, file: Path, attribute: str, space: Mapping[str, Any]) -> Any:
        """Evaluate what a class or its bases set an attribute to; None if none does."""
        for found in self.bases(name, file):
            if isinstance(found, str):
                continue
            for node in found[0].body:
                if isinstance(node, ast.Assign | ast.AnnAssign) and _name(node) == attribute and node.value:
                    return self._evaluate(node.value, found[1], space)
        return None

    def _evaluate(self, node: ast.expr, file: Path, space: Mapping[str, Any]) -> Any:
        """Evaluate an expression; other classes' attributes and a file's constants are evaluated first."""
        known = dict(space)
        constants = {_name(one): one.value for one in _statements(file) if isinstance(one, ast.Assign)}
        read = {
            part.value.id: part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name)
        }
        for part in ast.walk(node):
            if not isinstance(part, ast.Name) or part.id in known:
                continue
            if part.id in constants:
                known[part.id] = self._evaluate(constants[part.id], file, space)
            elif self.find(part.id, file) is not None:
                attribute = read.get(part.id, "hf_to_vllm_mapper")
                known[part.id] = SimpleNamespace(**{attribute: self.value(part.id, file, attribute, space)})
        return eval(ast.unparse(node), known)

    def parts(self, name: str, file: Path) -> set[str]:
        """Name what a class and its bases assign to `self`: the first parts of its modules' names."""
        return {
            node.attr
            for found in self.bases(name, file)
            if not isinstance(found, str)
            for node in ast.walk(found[0])
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            if isinstance(node.ctx, ast.Store)
        }

    def takes(self, name: str, file: Path) -> str:
        """Say what of a class vLLM adapts: "tower" for all of it, "language", or "none"."""
        names = [found if isinstance(found, str) else found[0].name for found in self.bases(name, file)]
        if "SupportsLoRA" not in names:
            return "none"
        return "tower" if self.value(name, file, "supports_tower_connector_lora", {}) else "language"


@functools.cache
def _statements(file: Path) -> list[ast.stmt]:
    """List a file's statements, and those under its first conditions: what Nvidia's cards and type checkers see."""
    found = list[ast.stmt]()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        found += node.body if isinstance(node, ast.If) else [node]
    return found


def _name(node: ast.Assign | ast.AnnAssign) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return getattr(target, "id", "")
