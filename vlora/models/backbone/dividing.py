"""Divides a model's frozen weights among ranks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...errors import ModelError
from ...train.sharding import Place, Shard, bytes_of_part, frozen_places
from ..forward.tied_head import tied_heads
from .backbone import MlxVlmBackbone
from .embed import probe_inputs
from .head import find_module
from .shards import Shards
from .vocabulary import TABLE


@attrs.frozen(eq=False, kw_only=True)
class Division:
    """What of a model's frozen weights is divided among ranks.

    Attributes:
        layers: Layers of the language model, each with the places of its arrays.
        head: Places of the head's arrays.
        table: Those of the table, the same list where the head is the table.
        outside: Those of all outside of the language model.
    """

    layers: Sequence[tuple[nn.Module, Sequence[Place]]]
    head: Sequence[Place]
    table: Sequence[Place]
    outside: Sequence[Place]

    def count(self, n_ranks: int) -> "DividedBytes":
        """Count the bytes that each of several ranks does not hold, and those that it gathers at once at most."""
        others = [self.table, self.outside, *([] if self.head is self.table else [self.head])]
        each = [*(places for _, places in self.layers), *others]
        whole = sum(int(place.read().nbytes) for places in each for place in places)
        parts = {id(places): bytes_of_part(places, n_ranks) for places in each}
        # A layer is sent while the one before it still runs.
        running = parts[id(self.head)] + sum(sorted(parts[id(places)] for _, places in self.layers)[-2:])
        gathered = n_ranks * max(running, parts[id(self.table)] + parts[id(self.outside)])
        return DividedBytes(n_elsewhere=whole - sum(parts.values()), n_gathered=gathered)


@attrs.frozen(kw_only=True)
class DividedBytes:
    """The bytes of a model's frozen weights on one of several ranks.

    Attributes:
        n_elsewhere: Those that only other ranks hold.
        n_gathered: Those that are gathered at once at most.
    """

    n_elsewhere: int
    n_gathered: int


def find_division(backbone: MlxVlmBackbone) -> Division:
    """Find what of a model's frozen weights ranks divide among them.

    Weights that are trained stay whole on each rank, as does what embeds if some of it is trained.

    Args:
        backbone: The model, with its adapters. Its weights are not read.

    Raises:
        ModelError: The layers have no frozen weights, or the model reads an image in every row.
    """
    if backbone.family.format.is_encoder_decoder:
        # A rank without a row would have nothing to run.
        msg = "train.shard: found 'params', and this family reads an image in every row; leave it out"
        raise ModelError(msg)
    units = _find_units(backbone)
    head, table, outside = _find_others(backbone)
    # What two parts share would be a placeholder in one of them.
    uses = Counter(_key(place) for places in (*units.values(), head, table, outside) for place in places)
    alone = {key for key, count in uses.items() if count == 1} | ({_key(place) for place in head if head == table})
    named = dict(backbone.module.named_modules())
    layers = [
        (named[name], own)
        for name, places in units.items()
        if (own := [place for place in places if _key(place) in alone])
    ]
    if not layers:
        msg = (
            "train.shard: found 'params', and the language model's layers have no frozen weights to divide; leave it "
            "out"
        )
        raise ModelError(msg)
    return Division(layers=layers, head=head, table=table, outside=outside)


def divide(backbone: MlxVlmBackbone, group: mx.distributed.Group) -> Shards:
    """Let each rank keep its part of the frozen weights; call it on all ranks, on the same model.

    Weights may be lazy, and are read part by part.

    Args:
        backbone: The model, with its adapters.
        group: MLX's; the ranks.

    Returns:
        The parts, which the backbone has from then on.

    Raises:
        ModelError: As `find_division`.
    """
    found = find_division(backbone)
    named = dict(backbone.module.named_modules())
    layers = [(module, Shard(places, group)) for module, places in found.layers]
    shards = {
        kind: Shard(places, group) for kind, places in (("table", found.table), ("outside", found.outside)) if places
    }
    head = found.head
    of_head = shards.get("table") if head is found.table else Shard(head, group) if head else None
    names = {_key(place) for place in found.outside}
    backbone.shards = Shards(
        layers=layers,
        head=None if of_head is None or backbone.head is None else (backbone.head, of_head),
        embedding=list(shards.values()),
        embedding_names=tuple(
            name
            for name, _ in tree_flatten(backbone.module.parameters())
            if (owner := named.get(name.rpartition(".")[0])) is not None
            and (id(owner), name.rpartition(".")[2]) in names
        ),
    )
    backbone.forget_traces()
    return backbone.shards


def frozen_bytes(backbone: MlxVlmBackbone) -> int:
    """Count the bytes of frozen weights that this device holds."""
    params, trained = (backbone.module.parameters(), backbone.module.trainable_parameters())
    whole, own = (sum(int(value.nbytes) for _, value in tree_flatten(tree)) for tree in (params, trained))
    return whole - own - (backbone.shards.n_elsewhere if backbone.shards else 0)


def _find_units(backbone: MlxVlmBackbone) -> dict[str, list[Place]]:
    """Find the frozen arrays of each layer that every row runs, and in the same order.

    Some families run layers only where there is an image, and then ranks would wait for one another.
    """
    modules, _ = backbone.checkpoint_modules(1, "layer")
    ids, inputs = probe_inputs(backbone.module, backbone.family)
    with backbone.overrides(), _counting(modules) as calls:
        # Not evaluated.
        backbone.run(ids, dict(inputs))
    chosen = {id(module) for module in modules if calls[id(module)] == 1}
    return {name: frozen_places(part) for name, part in _in_order(backbone.module) if id(part) in chosen}


def _find_others(backbone: MlxVlmBackbone) -> tuple[list[Place], list[Place], list[Place]]:
    """Find the frozen arrays of the head, of the table, and of all outside of the language model.

    Where the head is the table, both lists are the same one.
    """
    module, named = backbone.module, dict(backbone.module.named_modules())
    is_whole = bool(backbone.embed_param_names())
    tables = [name for name in named if name.rpartition(".")[2] == TABLE and backbone.is_language(name)]
    # A head that was not found may be the table.
    table = frozen_places(named[tables[0]]) if len(tables) == 1 and backbone.head and not is_whole else []
    outside = [
        Place(owner, name.rpartition(".")[2])
        for name, value in tree_flatten(module.parameters())
        if value.ndim > 1
        and not backbone.is_language(name)
        and isinstance(owner := named.get(name.rpartition(".")[0]), nn.Module)
    ]
    if backbone.head is None:
        return [], table, [] if is_whole else outside
    owner = tied_heads(module).get(backbone.head.name, backbone.head.name)
    if owner in tables:
        head = table
    elif backbone.head.is_tied:
        # Another table, which embedding may use, too.
        head = []
    else:
        head = frozen_places(find_module(module, owner))
    return head, table, [] if is_whole else outside


def _in_order(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Give modules with their names, in the model's order."""
    return list(reversed(module.named_modules()))


def _key(place: Place) -> tuple[int, str]:
    return id(place.module), place.key


@contextmanager
def _counting(modules: Sequence[nn.Module]) -> Iterator[Counter[int]]:
    """Count the calls of modules by their ids."""
    calls: Counter[int] = Counter()
    classes = [type(module) for module in modules]

    def counted(cls: type) -> type:
        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            calls[id(self)] += 1
            return cls.__call__(self, *args, **kwargs)

        return type(cls.__name__, (cls,), {"__call__": call})

    try:
        for module, cls in zip(modules, classes, strict=True):
            module.__class__ = counted(cls)
        yield calls
    finally:
        for module, cls in zip(modules, classes, strict=True):
            module.__class__ = cls
