"""Rows of a batch that show the same images, such as the two answers of a pair, where a family embeds rows one by one.

A family's own code embeds each row, and calls the tower from within: what its modules give for the first row is taken
again for the others that show the same images. Where images go through the tower together, `same_images.py` says which
are the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ...adapters.layers import Adapter
from ...adapters.model_parts import ModelParts
from ...data.truncate import is_per_token
from ...types import Example
from ..forward.overrides import override_call
from .head import find_module

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Of the arrays that a module is given, by their places among its arguments."""


def share_key(example: Example) -> tuple[Any, ...] | None:
    """Give what rows with the same images have in common; None of a row whose images are not known by keys."""
    if not example.image_keys:
        return None
    n_tokens = len(example.tokens)
    whole = {name: value for name, value in example.inputs.items() if not is_per_token(value, n_tokens)}
    return (*example.image_keys, *((name, _shape_of(value)) for name, value in sorted(whole.items())))


def _shape_of(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_shape_of(own) for own in value)
    return np.shape(value) if hasattr(value, "shape") else None


@attrs.frozen(eq=False)
class _Call:
    """A call of a module: what it was given, by shape, and what it gave."""

    name: str
    given: Shapes
    result: Any


@attrs.define(eq=False)
class SharedTowers:
    """Embeds rows one after the other, each set of images through the tower once."""

    _calls: list[_Call] = attrs.field(factory=list, init=False)
    _taken: Iterator[_Call] | None = attrs.field(default=None, init=False)
    _n_tokens: int = attrs.field(default=0, init=False)
    _is_inside: bool = attrs.field(default=False, init=False)
    _called: set[str] = attrs.field(factory=set, init=False)

    def embed_rows(
        self,
        module: nn.Module,
        parts: ModelParts,
        rows: Sequence[Example],
        embed: Callable[[Example], Any],
        is_kept: Callable[[Example], bool] = lambda _: False,
    ) -> list[Any]:
        """Embed rows by a function that takes one.

        Args:
            module: The model, the same in every call.
            parts: The places of its parts.
            rows: Of a batch.
            embed: Calls the model.
            is_kept: Whether a row's features are kept: it does not need the tower, and its pixels are not read.

        Returns:
            What it gave, row by row.
        """
        n_shown = Counter(tuple(example.image_keys) for example in rows if example.image_keys and not is_kept(example))
        # A key looks at the pixels, which are made when they are first looked at.
        keys = [share_key(example) if n_shown[tuple(example.image_keys)] > 1 else None for example in rows]
        if len(set(keys) - {None}) == sum(key is not None for key in keys):
            return [embed(example) for example in rows]
        known: dict[tuple[Any, ...], list[_Call]] = {}
        found = []
        with self._watching(module, parts):
            for key, example in zip(keys, rows, strict=True):
                calls = known.get(key) if key is not None else None
                self._calls, self._taken = [], None if calls is None else iter(calls)
                self._n_tokens = len(example.tokens)
                found.append(embed(example))
                if key is not None and self._calls:
                    known.setdefault(key, self._calls)
                    self._called |= {call.name for call in self._calls}
        self._calls, self._taken = [], None
        return found

    @contextmanager
    def _watching(self, module: nn.Module, parts: ModelParts) -> Iterator[None]:
        with ExitStack() as stack:
            # Once it is known which of a tower's modules a family calls itself, the others are left alone.
            for name in self._called or _tower_modules(module, parts):
                part = find_module(module, name)
                stack.enter_context(override_call(part, self._make_call(name, part)))
            yield

    def _make_call(self, name: str, module: nn.Module) -> Callable[..., Any]:
        run = type(module).__call__

        def call(*args: Any, **kwargs: Any) -> Any:
            # What reads the row's tokens as well is another for each answer; modules within it are looked at instead.
            if self._is_inside or self._reads_tokens([list(args), kwargs]):
                return run(module, *args, **kwargs)
            given = _describe([list(args), kwargs])
            if self._taken is not None:
                before = next(self._taken, None)
                if before is not None and (before.name, before.given) == (name, given):
                    return before.result
                # It is called otherwise for this row: nothing further is taken.
                self._taken = None
            self._is_inside = True
            try:
                result = run(module, *args, **kwargs)
            finally:
                self._is_inside = False
            self._calls.append(_Call(name, given, result))
            return result

        return call

    def _reads_tokens(self, tree: Any) -> bool:
        shapes = [value.shape for _, value in tree_flatten(tree) if isinstance(value, mx.array)]
        # Ids [1, T] or embeddings [1, T, D]; pixels have more dimensions.
        return any(len(shape) < len("BHWC") and shape[:2] == (1, self._n_tokens) for shape in shapes)


def _tower_modules(module: nn.Module, parts: ModelParts) -> list[str]:
    """Name the modules of the tower; not those within adapters, whose products depend on the type of their layer."""
    named = [(name, part) for name, part in module.named_modules() if name and parts.part(name) == "vision"]
    within = tuple(f"{name}." for name, part in named if isinstance(part, Adapter))
    return [name for name, part in named if not isinstance(part, nn.Embedding) and not name.startswith(within)]


def _describe(tree: Any) -> Shapes:
    return tuple(
        (place, tuple(value.shape) if isinstance(value, (mx.array, np.ndarray)) else ())
        for place, value in tree_flatten(tree)
    )
