"""Small parameters packed into one array, so that an optimizer updates them with one kernel. Pure."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

PACKED_SIZE = 2**18
"""Numbers of the smallest parameter that is not packed: packing takes a copy. A LoRA has hundreds of parameters of some
hundred kilobytes, and an optimizer launches a dozen kernels for each of them, each over before it has begun."""

PACKED_MULTIPLE = 128
"""A packed parameter has a multiple of so many numbers: where one begins, the matrix products of a GPU can read it."""

MOST_PARTS = 10
"""Most parts that one operation of MLX makes; `mx.split` makes a slice for each of more."""

FLAT = "packed"
"""What the packed parameters are called in an optimizer's state."""


@attrs.frozen(eq=False)
class Unpacked:
    """Packed parameters, f[P], and the arrays that were made of them."""

    packed: mx.array
    params: Mapping[str, mx.array]


@attrs.frozen
class FlatParams:
    """How the small parameters of a model are packed into one array, so that they are updated together.

    Attributes:
        shapes: Those of the packed parameters by name, in their order; empty if nothing is packed.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, params: Mapping[str, mx.array], optimizer: optim.Optimizer) -> "FlatParams":
        """Choose what is packed: nothing, if an element's update depends on its parameter's shape."""
        # Muon and Adafactor look at rows and columns.
        if not isinstance(optimizer, (optim.Adam, optim.SGD, optim.Lion)):
            return cls({})
        names = (name for name in sorted(params) if params[name].size < PACKED_SIZE)
        small = {name: params[name].shape for name in names if params[name].size % PACKED_MULTIPLE == 0}
        return cls(small if len(small) > 1 else {})

    @property
    def width(self) -> int:
        """How long the rows are in which the packed parameters lie one below the other.

        A matrix with rows of this length is unpacked as it is, others are reshaped. The length is that of the most
        matrices; in a LoRA, that of the A: the rank.
        """
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        widths = Counter(shape[1] for shape in self.shapes.values() if len(shape) == 2)  # noqa: PLR2004
        fitting = [width for width in widths if all(size % width == 0 for size in sizes)]
        return max(fitting, key=lambda width: widths[width], default=1)

    def pack(self, tree: Mapping[str, mx.array], known: "Unpacked | None" = None) -> dict[str, mx.array]:
        """Replace the packed parameters, or what is theirs, by one f[P].

        Args:
            tree: Name to array.
            known: What was unpacked before: if it is what is to be packed, its f[P] is there already.
        """
        if not self.shapes:
            return dict(tree)
        rest = {name: value for name, value in tree.items() if name not in self.shapes}
        if known is not None and all(tree[name] is known.params.get(name) for name in self.shapes):
            return {FLAT: known.packed, **rest}
        # Each is reshaped, although a matrix of the packed rows' length could stay: without these operations MLX
        # evaluates checkpointed layers in an order that holds a third more memory (a tiny model, a row of 960 tokens).
        return {FLAT: mx.concatenate([tree[name].reshape(-1) for name in self.shapes]), **rest}

    def remember(self, packed: Mapping[str, mx.array], params: Mapping[str, mx.array]) -> "Unpacked | None":
        """Keep what parameters were unpacked from, for the next `pack`."""
        if not self.shapes:
            return None
        return Unpacked(packed[FLAT], {name: params[name] for name in self.shapes})

    def unpack(self, tree: Mapping[str, mx.array], dtypes: Mapping[str, mx.Dtype] | None = None) -> dict[str, mx.array]:
        """Undo `pack`.

        Args:
            tree: As `pack` gives it.
            dtypes: Types to which packed parameters are cast, all those of one type at once.
        """
        if not self.shapes:
            return dict(tree)
        unpacked = {name: value for name, value in tree.items() if name != FLAT}
        own = tree[FLAT].dtype
        types = {name: (dtypes or {}).get(name, own) for name in self.shapes}
        width = self.width
        rows = tree[FLAT].reshape(-1, width)
        n_rows = [math.prod(shape) // width for shape in self.shapes.values()]
        parts = {dtype: apart(rows.astype(dtype), n_rows) for dtype in set(types.values())}
        for place, (name, shape) in enumerate(self.shapes.items()):
            unpacked[name] = parts[types[name]][place].reshape(shape)
        return unpacked

    def pack_factors(self, factors: Mapping[str, float]) -> dict[str, Any]:
        """Give factors of the learning rate as `pack` gives parameters: one for each element where they differ."""
        rest: dict[str, Any] = {name: factor for name, factor in factors.items() if name not in self.shapes}
        own = [factors.get(name, 1.0) for name in self.shapes]
        if len(set(own)) > 1:
            sizes = [math.prod(shape) for shape in self.shapes.values()]
            rest[FLAT] = mx.array(np.repeat(np.array(own, dtype=np.float32), sizes))
        elif own:
            rest[FLAT] = own[0]
        return rest


def apart(rows: mx.array, sizes: Sequence[int]) -> list[mx.array]:
    """Take consecutive rows of an array apart: views of so many rows each.

    The splits are nested, as one makes few parts; a slice for each part would take the host as long as many kernels.
    """
    if len(sizes) <= MOST_PARTS:
        return list(mx.split(rows, list(itertools.accumulate(sizes))[:-1]))
    groups = [sizes[start : start + MOST_PARTS] for start in range(0, len(sizes), MOST_PARTS)]
    wholes = apart(rows, [sum(group) for group in groups])
    return [part for whole, group in zip(wholes, groups, strict=True) for part in apart(whole, group)]
