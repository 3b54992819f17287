"""A small stack of layers, and what ranks that have divided its weights find; the argument is a folder for it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from vlora.adapters.attach import attach_lora
from vlora.train.ranks import open_ranks
from vlora.train.sharding import Shard, frozen_places, gathering
from vlora.train.state import bound_params

WIDTH = 64


class Block(nn.Module):
    """A layer as models have them."""

    def __init__(self) -> None:
        """Make it."""
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(WIDTH, 128), nn.Linear(128, WIDTH), nn.RMSNorm(WIDTH)

    def __call__(self, x: mx.array, mask: object = None) -> mx.array:
        """Run it."""
        del mask
        y: mx.array = x + self.down(nn.silu(self.up(self.norm(x))))
        return y


class Stack(nn.Module):
    """Some layers."""

    def __init__(self) -> None:
        """Make them."""
        super().__init__()
        self.layers = [Block() for _ in range(3)]

    def __call__(self, x: mx.array) -> mx.array:
        """Run them."""
        for layer in self.layers:
            x = layer(x)
        return x


def make_stack(kind: str) -> Stack:
    """Make the same one each time, with adapters: "lora", "dora", or "packed" for one on weights of 4 bits."""
    mx.random.seed(0)
    stack = Stack()
    stack.freeze()
    if kind == "packed":
        nn.quantize(stack, group_size=32)
    names = [name for name, _ in stack.named_modules() if name.endswith((".up", ".down"))]
    attach_lora(stack, sorted(names), rank=4, scale=2.0, method="dora" if kind == "dora" else "lora")
    for _, part in stack.named_modules():
        if "lora_b" in part:
            part.lora_b = mx.random.normal(part.lora_b.shape, key=mx.random.key(3))
    mx.eval(stack.parameters())
    return stack


def gradients(stack: Stack, shards: Sequence[tuple[nn.Module, Shard]] = ()) -> Any:
    """Find loss and gradients of a function of the stack; of packed ones a compiled one."""

    def loss(params: dict[str, mx.array], x: mx.array) -> mx.array:
        with bound_params(stack, params):
            return mx.square(stack(x)).sum()

    params = dict(tree_flatten(stack.trainable_parameters()))
    differentiate = mx.value_and_grad(loss, argnums=(0, 1))
    is_packed = "linear" in stack.layers[0].up and "scales" in stack.layers[0].up.linear
    with gathering(shards):
        run = mx.compile(differentiate) if is_packed else differentiate
        found = run(params, mx.random.normal((2, 5, WIDTH), key=mx.random.key(2)))
        mx.eval(found)
    return found


def main(folder: Path) -> None:
    """Compare divided stacks with whole ones."""
    ranks, found = open_ranks(), {}
    for kind in ("lora", "dora", "packed"):
        expected, stack = gradients(make_stack(kind)), make_stack(kind)
        places = [frozen_places(layer) for layer in stack.layers]
        shards = [Shard(own, ranks.group) for own in places if ranks.group is not None]
        own = gradients(stack, list(zip(stack.layers, shards, strict=True)))
        pairs = zip(tree_flatten(own), tree_flatten(expected), strict=True)
        found[kind] = {
            "is_equal": all(bool(mx.array_equal(one, other)) for (_, one), (_, other) in pairs),
            "share": sum(shard.nbytes for shard in shards) / sum(shard.nbytes + shard.n_elsewhere for shard in shards),
        }
    (folder / f"found-{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
