"""Frozen weights divided among ranks: each keeps a part, and all are gathered where a module runs.

A frozen weight has no gradient, so gathering is all that there is to send. It works with every backend that can gather,
and for packed weights, which are sent as they are.

All ranks have to gather the same modules in the same order, and none of them waits for another one's Python. So the
order follows from the data: a module gathers once its input is there, and in the backward pass once the gradient of its
output is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from .state import bound_params

ALIGNMENT = 256
"""Elements of a multiple of which each array begins: kernels read several at once."""


@attrs.frozen(eq=False)
class Place:
    """Where an array is in a model: `module[key]`."""

    module: nn.Module
    key: str

    def read(self) -> mx.array:
        """Give the array that is there."""
        found: mx.array = self.module[self.key]
        return found

    def write(self, value: mx.array) -> None:
        """Put an array there."""
        self.module[self.key] = value


@attrs.frozen(eq=False)
class _Message:
    """Arrays of one type, joined.

    Attributes:
        places: Where they belong.
        starts: Where each begins in what is gathered.
        own: This rank's part.
    """

    places: Sequence[Place]
    starts: Sequence[int]
    own: mx.array


class Shard:
    """This rank's part of some frozen arrays. Between uses a model has placeholders in their places.

    Attributes:
        group: MLX's; the ranks among which they are divided.
    """

    def __init__(self, places: Sequence[Place], group: mx.distributed.Group) -> None:
        """Divide arrays, and put placeholders in their places.

        The arrays may be lazy: those of one shard are read here, and freed before the next one's are.

        Args:
            places: Where they are; of any shape and type.
            group: As above.
        """
        self.group = group
        by_type: dict[mx.Dtype, list[Place]] = {}
        for place in places:
            by_type.setdefault(place.read().dtype, []).append(place)
        self._messages = [_divide(found, group) for found in by_type.values()]
        mx.eval([message.own for message in self._messages])
        self._whole = sum(int(place.read().nbytes) for place in places)
        self._blanks = [[_blank(place.read()) for place in message.places] for message in self._messages]
        mx.eval(self._blanks)
        self._restore()

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's part."""
        return sum(int(message.own.nbytes) for message in self._messages)

    @property
    def n_elsewhere(self) -> int:
        """Bytes of the arrays that other ranks keep."""
        return self._whole - self.nbytes

    @contextmanager
    def gathered(self, after: mx.array | None = None, *, is_begun: bool = False) -> Iterator[None]:
        """Put the whole arrays in their places while the `with` lasts.

        Args:
            after: What has to be there before they are gathered.
            is_begun: Send now, so that this comes before all that is evaluated later.
        """
        waits = [] if after is None else [mx.stop_gradient(after)]
        wholes: list[mx.array] = []
        for message in self._messages:
            (own,) = mx.depends([message.own], waits) if waits else (message.own,)
            waits = [mx.stop_gradient(mx.distributed.all_gather(own, group=self.group))]
            wholes += waits
        if is_begun:
            mx.async_eval(wholes)
        try:
            for message, blanks, whole in zip(self._messages, self._blanks, wholes, strict=True):
                for place, start, blank in zip(message.places, message.starts, blanks, strict=True):
                    place.write(whole[start : start + blank.size].reshape(blank.shape))
            yield
        finally:
            self._restore()

    def _restore(self) -> None:
        for message, blanks in zip(self._messages, self._blanks, strict=True):
            for place, blank in zip(message.places, blanks, strict=True):
                place.write(blank)


def frozen_places(module: nn.Module) -> list[Place]:
    """Find the frozen arrays of a module that are worth dividing.

    Those of one dimension stay whole: they are less than a thousandth of a layer's bytes, and some are read outside of
    its call.
    """
    return [
        Place(part, key)
        for _, part in sorted(module.named_modules(), key=lambda named: named[0])
        for key, value in sorted(part.items())
        if isinstance(value, mx.array) and value.ndim > 1 and not key.startswith("_") and _is_frozen(part, key)
    ]


@contextmanager
def gathering(shards: Sequence[tuple[nn.Module, Shard]]) -> Iterator[None]:
    """Let modules gather their weights when they are called, and again in the backward pass, while the `with` lasts.

    Their activations are recomputed there: kept ones would keep the gathered weights.
    """
    classes = [type(module) for module, _ in shards]
    try:
        for module, shard in shards:
            module.__class__ = _gathering(type(module), shard)
        yield
    finally:
        for (module, _), cls in zip(shards, classes, strict=True):
            module.__class__ = cls


def _gathering(cls: type, shard: Shard) -> type:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # As under gradient checkpointing: what is not floating has no gradient.
        floating = [value for _, value in tree_flatten((args, kwargs)) if _is_floating(value)]
        params = dict(tree_flatten(self.trainable_parameters()))
        shape: list[Any] = []

        def inner(*arrays: mx.array) -> list[mx.array]:
            rest = iter(arrays[len(params) :])
            given, named = tree_map(lambda value: next(rest) if _is_floating(value) else value, (args, kwargs))
            with bound_params(self, dict(zip(params, arrays, strict=False))):
                result = cls.__call__(self, *given, **named)
            shape[:] = [tree_map(lambda value: _Slot() if isinstance(value, mx.array) else value, result)]
            return [value for _, value in tree_flatten(result) if isinstance(value, mx.array)]

        def gathered(arrays: Sequence[mx.array]) -> AbstractContextManager[None]:
            return shard.gathered(arrays[len(params)] if floating else None)

        found = iter(_recomputed(inner, gathered)(*params.values(), *floating))
        return tree_map(lambda value: next(found) if isinstance(value, _Slot) else value, shape[0])

    return type(f"Gathering{cls.__name__}", (cls,), {"__call__": call})


class _Slot:
    """Where a result has an array."""


def _recomputed(
    function: Callable[..., list[mx.array]], gathered: Callable[[Sequence[mx.array]], AbstractContextManager[None]]
) -> Callable[..., list[mx.array]]:
    """Let a function run with gathered weights, and again for its gradient, once the gradient of its results is there.

    `mx.checkpoint` runs it again once its results are there, for all layers of a model in any order.
    """

    @mx.custom_function
    def run(*arrays: mx.array) -> list[mx.array]:
        with gathered(arrays):
            return function(*arrays)

    @run.vjp
    def pull(primals: Any, cotangents: Any, _: Any) -> Any:
        given = list(primals) if isinstance(primals, (tuple, list)) else [primals]
        towards = list(cotangents) if isinstance(cotangents, (tuple, list)) else [cotangents]
        given = mx.depends(given, towards)
        # Around the gradients too: those of adapters read the weights that they are added to.
        with gathered(given):
            return tuple(mx.vjp(function, given, towards)[1])

    return cast("Callable[..., list[mx.array]]", run)


def bytes_of_part(places: Sequence[Place], n_ranks: int) -> int:
    """Count the bytes of one rank's part of arrays, which are not read."""
    sizes: Counter[mx.Dtype] = Counter()
    for place in places:
        value = place.read()
        sizes[value.dtype] += -(-value.size // ALIGNMENT) * ALIGNMENT
    return sum(-(-size // n_ranks) * dtype.size for dtype, size in sizes.items())


def _divide(places: Sequence[Place], group: mx.distributed.Group) -> _Message:
    """Join arrays of one type, and take this rank's part."""
    rank, size = group.rank(), group.size()
    starts, end = [], 0
    for place in places:
        starts.append(end)
        end += -(-place.read().size // ALIGNMENT) * ALIGNMENT
    length = -(-end // size)
    first, last = rank * length, (rank + 1) * length
    parts, at = [], first
    for place, start in zip(places, starts, strict=True):
        flat = place.read().reshape(-1)
        begin, until = max(first, start), min(last, start + flat.size)
        if begin < until:
            # Between two arrays there may be a gap.
            parts += [mx.zeros((begin - at,), flat.dtype), flat[begin - start : until - start]]
            at = until
    parts.append(mx.zeros((last - at,), places[0].read().dtype))
    # A copy of its own: a part of an array would keep the whole.
    return _Message(places, starts, mx.contiguous(mx.concatenate(parts)))


def _blank(value: mx.array) -> mx.array:
    """Make a placeholder that takes no memory; a use of it is not a number, which no step lets pass."""
    filler = float("nan") if mx.issubdtype(value.dtype, mx.floating) else 0
    return mx.broadcast_to(mx.array(filler, value.dtype), value.shape)


def _is_frozen(module: nn.Module, key: str) -> bool:
    return key in module._no_grad  # noqa: SLF001 - MLX has no other way to ask


def _is_floating(value: Any) -> bool:
    return isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
