"""What all plans of packed rows have in common, whether rows have numbers or are streamed: packs, and their batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from ..types import Batch, Example, positions_of
from .collate import collate_packed

Item = TypeVar("Item")
"""What is known of a row: its examples, or how many places it takes."""

Pack = list[tuple[int, Item]]
"""Rows of a pack: (index, what is known of it)."""


class PackPlan(Protocol):
    """The steps of a run whose rows are packed, whether they have numbers of their own or are streamed."""

    @property
    def batch_size(self) -> int:
        """Packs of a microbatch."""

    def indices(self) -> Iterator[int]:
        """Yield the numbers of the rows to read."""

    def steps(self, encoded: Iterable[tuple[Example, ...] | None]) -> Iterator[list[Batch]]:
        """Make each step's microbatches."""

    def plan(self, found: Iterable[Item | None], count: Callable[[Item], int]) -> Iterator[list[list[Pack[Item]]]]:
        """Choose each step's packs."""


def collate_steps(plan: PackPlan, encoded: Iterable[tuple[Example, ...] | None]) -> Iterator[list[Batch]]:
    """Make microbatches of the packs of each step.

    Args:
        plan: Chooses them.
        encoded: The examples of each row, in the order in which the plan reads them.
    """
    for microbatches in plan.plan(encoded, count_positions):
        joined = (
            [[example for _, examples in pack for example in examples] for pack in packs] for packs in microbatches
        )
        yield [collate_packed(packs, plan.batch_size) for packs in joined]


def count_positions(examples: Iterable[Example]) -> int:
    """Count the places that a row's examples take."""
    return sum(map(positions_of, examples))
