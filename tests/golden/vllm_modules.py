"""The modules that vLLM's classes make, read from what they assign to `self` in their source; near enough for names.

Where a class makes one of several, or is told which, all of them count. A module is a place of an adapter if its
class is one of vLLM's linear layers or its experts.
"""

import ast
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .vllm_source import Found, Source

EXPERTS, LINEAR = "FusedMoEFactory", "LinearBase"
PACKED = "packed_modules_mapping"
"""What makes experts, and the class of which all linear layers are."""

REGISTERED = "init_vllm_registered_model"
"""Makes the language model that a configuration names."""

_OUTER: dict[object, frozenset["Class"]] = {}
"""What names of files may make, once they are looked up."""

Scope = tuple[ast.AST, Path]
Told = tuple[ast.expr, ast.AST, Path]


@dataclass(frozen=True)
class Class:
    """A class of vLLM's: its name, and where it is found from."""

    name: str
    file: Path


@dataclass(frozen=True)
class Modules:
    """The modules of one architecture.

    Attributes:
        source: vLLM's source.
        root: The architecture's class.
        inner: Classes of language models that its configuration may name.
    """

    source: Source
    root: Class
    inner: frozenset[Class]

    def reach(self, name: str, packed: dict[str, list[str]]) -> bool:
        """Whether a name is that of an adapted module, or of a part of a joined one."""
        parts = name.removesuffix(".base_layer").split(".")
        # A member of a joined layer, such as that of an expert, has one part of the name or several.
        places = [
            (parts[:-n_own], whole)
            for whole, members in packed.items()
            for n_own in range(1, len(parts))
            if ".".join(parts[-n_own:]) in members
        ]
        for parents, last in places or [(parts[:-1], parts[-1])]:
            states = {self.root}
            for part in parents:
                states = self.step(states, part)
            if any(is_adapted(self.source, one) for one in self.step(states, last)):
                return True
        return False

    def step(self, states: Iterable[Class], part: str) -> set[Class]:
        """Go from classes to those of their parts; the numbers of a list are its own."""
        if part.isdigit():
            return set(states)
        return {one for state in states for one in self.parts(state).get(part, ())}

    def parts(self, one: Class) -> dict[str, frozenset[Class]]:
        """Give a class's modules: {name: classes}."""
        return _parts(self, one)

    @functools.cached_property
    def _reached(self) -> dict[Class, dict[str, frozenset[Class]]]:
        found, waiting = dict[Class, dict[str, frozenset[Class]]](), [self.root]
        while waiting:
            one = waiting.pop()
            if one not in found:
                found[one] = self.parts(one)
                waiting += [other for others in found[one].values() for other in others]
        return found

    def supported(self) -> list[str]:
        """List the last parts of the names of all adapted modules, as `get_supported_lora_modules` does."""
        names = set[str]()
        for one, parts in self._reached.items():
            names |= {name for name, classes in parts.items() if any(is_adapted(self.source, its) for its in classes)}
            names |= set(self.source.value(one.name, one.file, "embedding_modules", {}) or ())
        return sorted(names | {str(number) for number in range(10)})

    def has_experts(self) -> bool:
        """Whether any module is vLLM's stack of experts."""
        return any(one.name == EXPERTS for one in self._reached)

    def packed(self) -> dict[str, list[str]]:
        """Give the joined layers of the class, or of its direct parts, as `get_packed_modules_mapping` does."""
        own = self._packed_of(self.root)
        if own:
            return own
        parts = {one for classes in self.parts(self.root).values() for one in classes}
        return {whole: joined for one in parts for whole, joined in self._packed_of(one).items()}

    def _packed_of(self, one: Class) -> dict[str, list[str]]:
        """Give a class's own, with what its `__init__` may add for some configurations."""
        found = dict(self.source.value(one.name, one.file, PACKED, {}) or {})
        for node, _ in (base for base in self.source.bases(one.name, one.file) if not isinstance(base, str)):
            for target, value in (
                (part.targets[0], part.value) for part in ast.walk(node) if isinstance(part, ast.Assign)
            ):
                if isinstance(target, ast.Subscript) and getattr(target.value, "attr", "") == PACKED:
                    found |= {ast.literal_eval(target.slice): ast.literal_eval(value)}
        return found


@functools.cache
def is_adapted(source: Source, one: Class) -> bool:
    """Whether vLLM adapts a module of a class: linear layers, experts, and tables of embeddings."""
    if one.name in (EXPERTS, LINEAR, "VocabParallelEmbedding"):
        return True
    found = source.bases(one.name, one.file)
    names = [base if isinstance(base, str) else base[0].name for base in found]
    return LINEAR in names or "VocabParallelEmbedding" in names


@functools.cache
def _parts(modules: Modules, one: Class) -> dict[str, frozenset[Class]]:
    if one.name == EXPERTS or is_adapted(modules.source, one):
        return {}
    found = dict[str, set[Class]]()
    bases = [base for base in modules.source.bases(one.name, one.file) if not isinstance(base, str)]
    told = _told(bases)
    for node, file in bases:
        for method in (part for part in node.body if isinstance(part, ast.FunctionDef)):
            reader = _Reader(modules, bases, told, (method, file))
            for name, value in _assigned(method):
                found.setdefault(name, set()).update(reader.classes(value))
    return {name: frozenset(classes) for name, classes in found.items()}


def _told(bases: Iterable[Found]) -> dict[str, list[Told]]:
    """Give what classes tell their bases by keyword."""
    found = dict[str, list[Told]]()
    for node, file in bases:
        for method in (part for part in node.body if isinstance(part, ast.FunctionDef)):
            for call in (part for part in ast.walk(method) if isinstance(part, ast.Call)):
                if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__":
                    for word in call.keywords:
                        found.setdefault(word.arg or "", []).append((word.value, method, file))
    return found


def _assigned(method: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """List what a method assigns to parts of `self`."""
    for node in ast.walk(method):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in (part for whole in targets for part in getattr(whole, "elts", [whole])):
                if isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self":
                    yield target.attr, node.value


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """Give the plain names that a statement assigns to."""
    return [getattr(one, "id", "") for one in (node.targets if isinstance(node, ast.Assign) else [node.target])]


class _Reader:
    """Finds the classes that an expression of a method may make."""

    def __init__(self, modules: Modules, bases: list[Found], told: dict[str, list[Told]], scope: Scope) -> None:
        self._modules, self._bases, self._told = modules, bases, told
        self._method, self._file = scope
        self._seen = set[tuple[str, Path]]()

    def classes(self, value: ast.AST) -> set[Class]:
        """Find them."""
        self._seen.clear()
        return self._classes(value, self._method, self._file)

    def _classes(self, value: ast.AST, within: ast.AST, file: Path) -> set[Class]:
        found = set[Class]()
        for node in ast.walk(value):
            if isinstance(node, ast.Name):
                found |= self._named(node.id, within, file)
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
                found |= self._method_of(node.attr)
        return found

    def _method_of(self, name: str) -> set[Class]:
        """Find what a method gives, or what a class has under the name, the nearest of a class and its bases."""
        found: list[tuple[ast.AST, ast.AST, Path]] = []
        for node, file in self._bases:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == name and name != "__init__":
                    found.append((part, part, file))
                elif isinstance(part, ast.Assign | ast.AnnAssign) and part.value and name in _targets(part):
                    found.append((part.value, node, file))
        return {one for value, within, file in found[:1] for one in self._within(value, within, file)}

    def _within(self, value: ast.AST, within: ast.AST, file: Path) -> set[Class]:
        key = (f"{ast.unparse(value)[:200]}", file)
        if key in self._seen:
            return set()
        self._seen.add(key)
        return self._classes(value, within, file)

    def _named(self, name: str, within: ast.AST, file: Path) -> set[Class]:
        if name == REGISTERED:
            named = [str(one.value) for one in ast.walk(within) if isinstance(one, ast.Constant)]
            return set(registered(self._modules.source, named)) or set(self._modules.inner)
        if name == EXPERTS:
            return {Class(name, file)}
        local = _bindings(within).get(name)
        told = self._told.get(name, []) if local is not None else []
        found = {one for value in local or () for one in self._within(value, within, file)}
        found |= {one for value, method, other in told for one in self._within(value, method, other)}
        return found if local is not None else found | self._outer(name, file)

    def _outer(self, name: str, file: Path) -> frozenset[Class]:
        key = (self._modules.inner, name, file)
        if key not in _OUTER:
            _OUTER[key] = frozenset()
            _OUTER[key] = frozenset(self._defined(name, file))
        return _OUTER[key]

    def _defined(self, name: str, file: Path) -> set[Class]:
        source = self._modules.source
        defined = source.definition(name, file)
        if defined is None:
            return set()
        node, other = defined
        if isinstance(node, ast.ClassDef):
            return {Class(node.name, other)}
        if "models" not in other.parts:
            return set()
        value: Any = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else node
        return self._within(value, node, other)


@functools.cache
def _bindings(within: ast.AST) -> dict[str, list[ast.AST]]:
    """Give what the names of a function may be; none of anything else."""
    found = dict[str, list[ast.AST]]()
    if not isinstance(within, ast.FunctionDef):
        return found
    arguments = within.args
    for one in (*arguments.args, *arguments.kwonlyargs):
        found[one.arg] = []
    for one, value in zip(reversed(arguments.args), reversed(arguments.defaults), strict=False):
        found[one.arg].append(value)
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found[one.arg] += [default] if default else []
    for node in ast.walk(within):
        if isinstance(node, ast.FunctionDef) and node is not within:
            found.setdefault(node.name, []).append(node)
        if isinstance(node, ast.Assign | ast.For):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in (part for whole in targets for part in getattr(whole, "elts", [whole])):
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value if isinstance(node, ast.Assign) else node.iter)
    return found


def registered(source: Source, names: Iterable[str]) -> list[Class]:
    """Find the classes of those names that are architectures."""
    known = source.registry("_TEXT_GENERATION_MODELS") | source.registry()
    return [Class(known[name][1], source.file(known[name][0])) for name in names if name in known]
