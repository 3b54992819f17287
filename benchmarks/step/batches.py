"""The rows of a recipe's first steps, encoded and collated before the clock starts."""

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx

from vlora import Batch, Example, Recipe, collate
from vlora.build import Data
from vlora.data.sampler import step_batches, steps_per_epoch
from vlora.errors import RecipeError, SampleError

Microbatches = Sequence[Batch]
"""What one optimizer step takes."""


def prepare(recipe: Recipe, data: Data, n_batches: int) -> tuple[list[Microbatches], int]:
    """Encode and collate the microbatches of a run's first steps, as `fit` draws them.

    Returns:
        The microbatches of each step, and how many rows were skipped.

    Raises:
        RecipeError: It asks for batches that are not measured here.
        SampleError: A row cannot be learned from and the recipe does not skip it, or none is left.
    """
    train = recipe.train
    if train.batching != "shuffled":
        msg = f"train.batching: found {train.batching!r}; the benchmark measures shuffled batches only"
        raise RecipeError(msg)
    per_epoch = steps_per_epoch(len(data.train), train.batch_size, train.gradient_accumulation_steps)
    plan = step_batches(
        len(data.train),
        train.batch_size,
        accumulation=train.gradient_accumulation_steps,
        seed=train.seed,
        shuffle=recipe.data.shuffle,
        n_steps=min(n_batches, per_epoch),
    )
    prepared: list[Microbatches] = []
    n_skipped = 0
    for numbers_of_step in plan:
        batches = []
        for numbers in numbers_of_step:
            examples = list(encode(recipe, data, numbers))
            n_skipped += len(numbers) - len(examples)
            if examples:
                batches.append(collate(examples, train.batch_size))
        if batches:
            prepared.append(batches)
    if not prepared:
        msg = f"data.path: none of the first {n_skipped} rows can be learned from"
        raise SampleError(msg)
    mx.eval([batch[:-1] for step in prepared for batch in step])
    return prepared, n_skipped


def encode(recipe: Recipe, data: Data, numbers: Sequence[int]) -> Iterator[Example]:
    """Encode rows, passing over bad ones if the recipe does."""
    for number in numbers:
        try:
            yield data.encoder(data.train[number])
        except SampleError:
            if recipe.data.on_bad_row == "raise":
                raise


def first_of_shapes(prepared: Sequence[Microbatches]) -> list[int]:
    """Number the batches that need a trace of their own, of language model or image tower."""
    firsts: dict[Any, int] = {}
    for number, batches in enumerate(prepared):
        shapes = tuple(
            (
                tuple(batch.tokens.shape),
                tuple(sorted(s for row in batch.rows for s in row.image_sizes)),
            )
            for batch in batches
        )
        firsts.setdefault(shapes, number)
    return list(firsts.values())


def count_tokens(batches: Microbatches) -> int:
    """Count the tokens of a step, padding left out."""
    return sum(len(row.tokens) for batch in batches for row in batch.rows)
