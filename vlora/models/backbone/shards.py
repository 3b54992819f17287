"""Frozen weights of a model that ranks have divided among them: which module gathers which, and when."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn

from ...train.sharding import Shard, gathering
from .head import Head, tapped


@attrs.frozen(eq=False, kw_only=True)
class Shards:
    """A rank's parts of a model's frozen weights.

    Attributes:
        layers: Modules of the language model that gather their weights whenever they run.
        head: The head, and its part; None if its weights are whole.
        embedding: Parts that embedding gathers: of the table, and of all outside of the language model.
        embedding_names: Names of the parameters of those outside of the language model.
    """

    layers: Sequence[tuple[nn.Module, Shard]]
    head: tuple[Head, Shard] | None = None
    embedding: Sequence[Shard] = ()
    embedding_names: tuple[str, ...] = ()

    @property
    def n_elsewhere(self) -> int:
        """Bytes of the model's weights that other ranks keep."""
        shards = [shard for _, shard in self.layers] + [*self.embedding, *(() if self.head is None else self.head[1:])]
        return sum(shard.n_elsewhere for shard in {id(shard): shard for shard in shards}.values())

    def others(self, modules: Sequence[nn.Module]) -> list[nn.Module]:
        """Choose modules whose weights are whole: the others recompute by themselves."""
        divided = {id(module) for module, _ in self.layers}
        return [module for module in modules if id(module) not in divided]

    @contextmanager
    def embeds(self) -> Iterator[None]:
        """Gather what embedding uses, on every rank, whether or not its own rows need it."""
        with ExitStack() as stack:
            for shard in self.embedding:
                # At once: rows differ, and with them what is computed between this and the layers.
                stack.enter_context(shard.gathered(is_begun=True))
            yield

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[None]:
        """Let layers gather when they are called, and the head once for all of its chunks."""
        with ExitStack() as stack:
            stack.enter_context(gathering(self.layers))
            if self.head is not None:
                head, shard = self.head
                stack.enter_context(tapped(module, head, _once(shard, stack)))
            yield


def _once(shard: Shard, stack: ExitStack) -> Callable[[Callable[[mx.array], mx.array], mx.array], mx.array]:
    """Make a tap that gathers the weights of a head before its first call, until the stack is closed."""
    is_gathered = False

    def tap(run: Callable[[mx.array], Any], hidden: mx.array) -> mx.array:
        nonlocal is_gathered
        if not is_gathered:
            stack.enter_context(shard.gathered(hidden))
            is_gathered = True
        found: mx.array = run(hidden)
        return found

    return tap
