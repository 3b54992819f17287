"""The ranks of a run: processes with a device each, which add up their gradients once a step.

Every rank takes its share of a step's rows and has all of the state. What decides how a run goes on (gradients, losses,
whether it is to stop) is added up over the ranks first and is then the same on each, so that each takes the same steps.
One rank alone is a run as any other: nothing here then touches MLX's communication.

Messages are sent in the order in which ranks ask for them. All ranks have to ask for the same ones in the same order:
where several belong to one graph, each waits for the one before it.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import attrs
import mlx.core as mx
import numpy as np

from ..data.sampler import share_out
from ..errors import RanksError
from ..system import heartbeat
from ..system.rank_environment import NCCL_PORT, find_rank
from .backbone import Params
from .objectives.joined import JoinedObjective
from .objectives.objective import LossFn, Objective

MESSAGE_BYTES = 2**26
"""Arrays are joined up to so many bytes, since each message waits for the slowest rank; larger ones are sent alone."""

KEY_STRIDE = 2**20
"""How far apart the ranks' random keys of a step begin: more than a step has microbatches."""

Item = TypeVar("Item")


def _unwatched() -> AbstractContextManager[None]:
    return nullcontext()


@attrs.define(eq=False)
class Ranks:
    """This process among the ranks of a run.

    Attributes:
        group: MLX's; None for a run of one rank.
        watched: Makes a context for the time in which this rank waits for others.
    """

    group: mx.distributed.Group | None = None
    watched: Callable[[], AbstractContextManager[None]] = _unwatched

    @property
    def rank(self) -> int:
        """Which of the ranks this one is, from 0."""
        return 0 if self.group is None else self.group.rank()

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return 1 if self.group is None else self.group.size()

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the run's files and shows how it goes."""
        return self.rank == 0

    def share(self, rows: Sequence[int]) -> list[int]:
        """Choose this rank's rows of a batch, as a run does (`vlora.data.sampler.share_out`)."""
        return share_out(rows, self.size)[self.rank]

    def sum_step(self, gradients: Params, numbers: Sequence[mx.array | float]) -> tuple[Params, tuple[mx.array, ...]]:
        """Add up the gradients of a step and what was counted, over all ranks.

        Args:
            gradients: Name to f32 array; the names and shapes are the same on every rank.
            numbers: f32[] each.

        Returns:
            The sums, the same to the last bit on every rank; nothing is waited for.
        """
        counted = mx.stack([mx.array(number, dtype=mx.float32) for number in numbers])
        if self.group is None:
            return gradients, tuple(counted)
        found: dict[str, mx.array] = {}
        before: mx.array | None = None
        # The numbers go with the first message: a LoRA's gradients are a single one.
        for names in _messages(gradients):
            parts = [gradients[name].reshape(-1) for name in names]
            message = mx.concatenate([*parts, counted]) if before is None else _join(parts)
            if before is not None:
                (message,) = mx.depends([message], [before])
            before = total = mx.distributed.all_sum(message, group=self.group)
            start = 0
            for name in names:
                end = start + gradients[name].size
                found[name] = total[start:end].reshape(gradients[name].shape)
                start = end
            if len(found) == len(names):
                counted_sums = total[start:]
        return {name: found[name] for name in gradients}, tuple(counted_sums)

    def share_loss(self, loss: LossFn | Objective) -> LossFn | Objective:
        """Let a `JoinedObjective` add up its sums over all ranks, which have to run as many microbatches each then."""
        if self.group is None or not isinstance(loss, JoinedObjective):
            return loss
        return attrs.evolve(loss, total=lambda value: mx.distributed.all_sum(value, group=self.group))

    def sum(self, *numbers: float) -> tuple[float, ...]:
        """Add up numbers over all ranks, and wait for it."""
        if self.group is None:
            return numbers
        # In two halves: a count of more than 2**24 is not a float32.
        high = [float(number // 2**12) for number in numbers]
        low = [number - part * 2**12 for number, part in zip(numbers, high, strict=True)]
        with self.watched():
            found = np.array(mx.distributed.all_sum(mx.array([*high, *low], dtype=mx.float32), group=self.group))
        sums = [float(number) for number in found]
        return tuple(sums[at] * 2**12 + sums[len(numbers) + at] for at in range(len(numbers)))

    def gather(self, value: Any) -> list[Any]:
        """Tell all ranks something, and wait for what they tell.

        Args:
            value: What JSON can write.

        Returns:
            What each rank has given, in their order.
        """
        if self.group is None:
            return [value]
        text = json.dumps(value).encode()
        with self.watched():
            sizes = np.array(mx.distributed.all_gather(mx.array([len(text)], dtype=mx.int32), group=self.group))
            longest = int(sizes.max())
            padded = mx.array(np.frombuffer(text.ljust(longest), dtype=np.uint8))
            found = np.array(mx.distributed.all_gather(padded, group=self.group)).tobytes()
        return [json.loads(found[at * longest :][:size]) for at, size in enumerate(sizes.tolist())]

    def gather_others(self, value: Any) -> list[Any]:
        """Tell all ranks something; give what the others tell."""
        return [found for rank, found in enumerate(self.gather(value)) if rank != self.rank]

    def behind_first(self, make: Callable[[], Item]) -> Item:
        """Let the first rank make something before the others do: they find what it has downloaded or built."""
        if not self.is_first:
            self.wait()
        made = make()
        if self.is_first:
            self.wait()
        return made

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self.sum(0.0)


def open_ranks(environment: Mapping[str, str] | None = None) -> Ranks:
    """Find this process's place among the ranks that `--devices`, `mlx.launch` or MPI has started.

    Args:
        environment: Variables that they have set; those of this process, if not given.

    Raises:
        RanksError: The ranks do not find one another.
    """
    found = os.environ if environment is None else environment
    if find_rank(found) is None:
        return Ranks()
    heartbeat.wait_for_others(found)
    try:
        # MLX would try its other ways first, each of which waits for processes that are not there.
        group = mx.distributed.init(strict=True, backend="nccl" if found.get(NCCL_PORT) else "any")
    except (RuntimeError, ValueError) as error:
        msg = (
            f"rank {find_rank(found)} does not find the others ({error}); start them together, with --devices, which "
            "waits for the last one, or mlx.launch, which gives them some 15 seconds, and with ports that nothing "
            "else uses"
        )
        raise RanksError(msg) from None
    return Ranks(group, heartbeat.begin(found).waiting) if group.size() > 1 else Ranks()


def _messages(gradients: Params) -> list[list[str]]:
    """Divide gradients into messages; there is one at least, in the order of the names."""
    messages: list[list[str]] = [[]]
    size = 0
    for name in sorted(gradients):
        n_bytes = gradients[name].nbytes
        if messages[-1] and size + n_bytes > MESSAGE_BYTES:
            messages.append([])
            size = 0
        messages[-1].append(name)
        size += n_bytes
    return messages


def _join(parts: Sequence[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(list(parts))
