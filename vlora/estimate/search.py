"""Searches smaller values of a recipe with which a failed step fits, by planning the step with each of them."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..build import find_model, load_model, load_rows
from ..data.collate import collate, collate_packed
from ..errors import OutOfMemoryError, SampleError
from ..memory.command_buffers import default_max_mb_per_buffer
from ..memory.limits import GIGA, device_kind
from ..memory.shortage import LARGEST_DIMENSION
from ..ops.buckets import bucket_length
from ..output.resume import RESUME_MUTABLE_KEYS
from ..recipe.schema import Recipe
from ..types import Batch, Example
from .planner import UNPLANNABLE, Planner

USABLE = 0.95
"""Usable share of a device's memory: MLX's own limit on a GPU, and the error of a plan."""

RELIEF = 0.9
"""Largest share of the failed step's need that may be proposed, if the plan says that the step fits."""

BY_CHANCE = 1.5
SMALLEST_LENGTH = 64
SMALLEST_PIXELS = 64 * 64
QUANTIZED_BITS = 4
SMALLER_MB_PER_BUFFER = (200, 100, 50)

MOST_ROWS = 64
"""Most rows of a microbatch that are planned, the longest ones: a plan takes seconds, and more images take longer."""

SHARED_PARTS = ("weights", "trained weights", "optimizer", "gradients")
"""Parts of a plan that do not depend on the number of rows."""


@attrs.frozen
class Option:
    """A change that fits.

    Attributes:
        keys: Recipe keys and their values.
        need: Bytes at the fullest moment, by the plan.
        n_tokens: Of the microbatch, padding included.
    """

    keys: Mapping[str, Any]
    need: int
    n_tokens: int

    @property
    def is_free(self) -> bool:
        """Whether a run can be resumed with it."""
        return self.keys.keys() <= RESUME_MUTABLE_KEYS

    def __str__(self) -> str:
        """Show it as the command line takes it."""
        sets = " ".join(f"--set {key}={str(value).lower()}" for key, value in self.keys.items())
        return f"{sets} ({format_size(self.need)})"


@attrs.define(eq=False)
class Search:
    """Plans a failed step with other values of the recipe.

    Attributes:
        recipe: The failed run's.
        batch: The microbatch that failed; None for the model alone.
        memory: Bytes of the device.
        dimension: Size of the dimension that was too large for MLX; 0 if memory was lacking.
        is_late: Whether to stop looking.
        need: Bytes that the failed step needs.
        target: Most bytes of a step that fits.
        most_tokens: Most tokens of a microbatch that fits; None if they are not limited.
    """

    recipe: Recipe
    batch: Batch | None
    memory: int
    dimension: int
    is_late: Callable[[], bool]
    need: int = attrs.field(init=False)
    target: int = attrs.field(init=False)
    most_tokens: int | None = attrs.field(init=False, default=None)
    _planners: dict[int | None, Planner] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """Plan what failed."""
        self.need = self._option({}, self.batch).need
        usable = int(USABLE * self.memory)
        self.target = usable if self.dimension or self.need > usable else int(RELIEF * self.need)
        if self.dimension and self.batch is not None:
            # Such a dimension joins the rows of a microbatch, and grows with its tokens.
            self.most_tokens = int(self.batch.tokens.size) * LARGEST_DIMENSION // self.dimension

    def find(self) -> list[Option]:
        """Find changes that fit; those with which the run can be resumed come first."""
        found: list[Option] = []
        for options in self._kinds():
            for option in options():
                if self._fits(option):
                    found.append(option)
                    break
                if self.is_late():
                    return found
            if self.is_late():
                return found
        return found or list(self._fewest())

    def _kinds(self) -> tuple[Callable[[], Iterator[Option]], ...]:
        """List the kinds of changes; those with which the run can be resumed come first."""
        if self.most_tokens is not None:
            return self._fewer_rows, self._pixels, self._shorter
        # Fewer rows fit where little else does.
        return self._recompute, self._fewer_rows, self._command_buffers, self._pixels, self._shorter, self._quantize

    def _fits(self, option: Option) -> bool:
        return option.need <= self.target and (self.most_tokens is None or option.n_tokens <= self.most_tokens)

    def _recompute(self) -> Iterator[Option]:
        train = self.recipe.train
        if self.batch is None or (train.grad_checkpoint, train.checkpoint_every, train.checkpoint_part) == (
            True,
            1,
            "layer",
        ):
            return
        yield self._option(self._recomputed(), self.batch)

    def _recomputed(self) -> dict[str, Any]:
        train = self.recipe.train
        keys: dict[str, Any] = {} if train.grad_checkpoint else {"train.grad_checkpoint": True}
        keys |= {} if train.checkpoint_every == 1 else {"train.checkpoint_every": 1}
        return keys | ({} if train.checkpoint_part == "layer" else {"train.checkpoint_part": "layer"})

    def _command_buffers(self) -> Iterator[Option]:
        if self.batch is None or device_kind() != "cuda":
            return
        is_divided = self.recipe.train.shard == "params"
        given = self.recipe.memory.max_mb_per_buffer
        own = given or default_max_mb_per_buffer(mx.device_info(), is_divided=is_divided)
        for size in SMALLER_MB_PER_BUFFER:
            if own is None or size < own:
                yield self._option({"memory.max_mb_per_buffer": size}, self.batch)

    def _fewer_rows(self) -> Iterator[Option]:
        # The need falls at most in proportion to the rows, except for chance effects of the queue.
        most = int(BY_CHANCE * self._n_rows * self.target / self.need)
        if self.batch is not None and self.most_tokens is not None:
            most = self._n_rows * self.most_tokens // int(self.batch.tokens.size)
        for n_rows in range(min(self._n_rows - 1, most), 0, -1):
            if self._n_rows % n_rows == 0:
                yield self._with_rows(n_rows, {})

    def _fewest(self) -> Iterator[Option]:
        """The smallest values of everything that can change on resuming, and one row."""
        if self.batch is None or self.is_late():
            return
        option = self._with_rows(1, self._recomputed())
        if self._fits(option):
            yield option

    @property
    def _limit(self) -> int:
        given = self.recipe.memory.limit_gb
        return self.memory if given is None else int(given * GIGA)

    @property
    def _n_rows(self) -> int:
        return 1 if self.batch is None else count_rows(self.batch)

    def _with_rows(self, n_rows: int, others: Mapping[str, Any]) -> Option:
        """Use a divisor of the batch size, and more microbatches, so that a step has as many rows as before."""
        n_microbatches = self.recipe.train.gradient_accumulation_steps * self._n_rows // n_rows
        keys = {**others, "train.batch_size": n_rows, "train.gradient_accumulation_steps": n_microbatches}
        return self._option(keys, None if self.batch is None else first_rows(self.batch, n_rows))

    def _pixels(self) -> Iterator[Option]:
        """Encode the failed rows again, with smaller and smaller images."""
        batch = self.batch
        if batch is None or batch.segment_starts or self.recipe.data.image_resize_shape is not None:
            return
        pixels = max((width * height for row in batch.rows for width, height in row.image_sizes), default=0)
        fewer = first_rows(batch, min(MOST_ROWS, self._n_rows))
        # The first option may need more than what failed: the model's own processor takes fewer pixels without the key.
        need, n_times = math.inf, self._n_rows / count_rows(fewer)
        while (pixels := pixels // 2) >= SMALLEST_PIXELS:
            keys = {"data.max_pixels": pixels}
            examples = _encode_again(_changed(self.recipe, keys), {row.source for row in fewer.rows})
            if len(examples) < len(fewer.rows):
                return
            option = self._option(keys, collate(examples), n_times)
            yield option
            # The processor scales images up again.
            if option.need >= need:
                return
            need = option.need

    def _shorter(self) -> Iterator[Option]:
        """Cut rows of text; images are never cut."""
        batch = self.batch
        if batch is None or any(row.image_sizes for row in batch.rows):
            return
        share = float(np.mean([row.supervised.mean() for row in batch.rows]))
        longest = min(int(batch.tokens.shape[1]), self.recipe.data.max_seq_length)
        key = "data.max_seq_length"
        if self.recipe.train.batching == "packed":
            key, longest = "train.pack_length", int(batch.tokens.shape[1])

        def at(length: int) -> Option:
            return self._option({key: length}, self._planner().rows_of(length, share))

        yield from self._lower(longest, SMALLEST_LENGTH, at)

    def _quantize(self) -> Iterator[Option]:
        section = self.recipe.model
        if section.full_finetune or section.quantize_bits is not None:
            return
        option = self._option({"model.quantize_bits": QUANTIZED_BITS}, self.batch)
        if option.need < self.need:
            yield option

    def _lower(self, value: int, least: int, option_at: Callable[[int], Option]) -> Iterator[Option]:
        """Halve a number until it fits; then interpolate between that and the last one that does not."""
        above, need_above = value, self.need
        while (value := above // 2) >= least:
            option = option_at(value)
            if not self._fits(option):
                above, need_above = value, option.need
                yield option
                continue
            slope = (need_above - option.need) / (above - value)
            between = min(above - 1, value + int((self.target - option.need) / max(slope, 1)))
            n_rows = self.recipe.train.batch_size
            while self.most_tokens is not None and n_rows * bucket_length(between) > self.most_tokens:
                between -= 1
            if between > value and not self.is_late():
                nearer = option_at(between)
                if self._fits(nearer):
                    yield nearer
            yield option
            return

    def _option(self, keys: Mapping[str, Any], batch: Batch | None, n_times: float = 1.0) -> Option:
        """Plan a change.

        Args:
            keys: What is changed.
            batch: The microbatch then; None for the model alone.
            n_times: How many times as many rows the planned microbatch has.
        """
        recipe = _changed(self.recipe, keys)
        planner = attrs.evolve(self._planner(recipe.model.quantize_bits), recipe=recipe)
        if batch is None:
            weights = tree_flatten(planner.backbone.module.parameters())
            return Option(keys, sum(value.nbytes for _, value in weights), 0)
        n_rows = count_rows(batch)
        most = max(1, MOST_ROWS * n_rows // int(batch.tokens.shape[0]))
        if n_rows > most:
            return self._option(keys, first_rows(batch, most), n_times * n_rows / most)
        return Option(keys, _need(planner, batch, n_times), int(n_times * batch.tokens.size))

    def _planner(self, bits: int | None = None) -> Planner:
        bits = bits or self.recipe.model.quantize_bits
        if bits not in self._planners:
            recipe = attrs.evolve(self.recipe, model=attrs.evolve(self.recipe.model, quantize_bits=bits))
            backbone, _ = load_model(recipe, find_model(recipe), is_abstract=True)
            self._planners[bits] = Planner(recipe, backbone, self._limit)
        return self._planners[bits]


def _need(planner: Planner, batch: Batch, n_times: float) -> int:
    """Predict the peak bytes of a step on `n_times` as many rows as a batch has."""
    try:
        parts = planner.parts(batch)
    except OutOfMemoryError:
        return UNPLANNABLE
    return int(sum(size * (1.0 if part in SHARED_PARTS else n_times) for part, size in parts.items()))


def _join_groups(examples: Sequence[Example]) -> list[list[Example]]:
    """Join the examples of each row of data: those of one group, such as the two answers of a pair."""
    groups: dict[tuple[bool, int], list[Example]] = {}
    for place, example in enumerate(examples):
        is_alone = example.group is None
        groups.setdefault((is_alone, place if example.group is None else example.group), []).append(example)
    return list(groups.values())


def count_rows(batch: Batch) -> int:
    """Count the rows that a microbatch has room for: packed ones, or rows of data, which may be several examples."""
    n_rows = int(batch.tokens.shape[0])
    if batch.segment_starts:
        return n_rows
    return n_rows // max(map(len, _join_groups(batch.rows)), default=1)


def first_rows(batch: Batch, n_rows: int) -> Batch:
    """Make a batch of the longest `n_rows` rows of another one, as `count_rows` counts them."""
    if not batch.segment_starts:
        groups = sorted(_join_groups(batch.rows), key=lambda row: -max(len(example.tokens) for example in row))
        n_examples = n_rows * max(map(len, groups), default=1)
        return collate([example for group in groups[:n_rows] for example in group], n_examples)
    packs: dict[int, list[Example]] = {}
    for (row, _), example in zip(batch.segment_starts, batch.rows, strict=True):
        packs.setdefault(row, []).append(example)
    fullest = sorted(packs.values(), key=lambda pack: -sum(len(example.tokens) for example in pack))
    return collate_packed(fullest[:n_rows], n_rows)


def _encode_again(recipe: Recipe, sources: set[str]) -> list[Example]:
    data = load_rows(recipe)
    found: list[Example] = []
    for rows in (data.train, data.valid):
        for index in range(0 if rows is None else len(rows)):
            if rows is not None and rows.name_row(index) in sources:
                with contextlib.suppress(SampleError):
                    examples = data.encode(rows[index])
                    group = index if len(examples) > 1 else None
                    found += [attrs.evolve(example, group=group) for example in examples]
    return found


def _changed(recipe: Recipe, keys: Mapping[str, Any]) -> Recipe:
    for key, value in keys.items():
        section, _, name = key.partition(".")
        recipe = attrs.evolve(recipe, **{section: attrs.evolve(getattr(recipe, section), **{name: value})})
    return recipe


def format_size(nbytes: int) -> str:
    """Show a number of bytes in gigabytes, to three digits."""
    return f"{nbytes / GIGA:.3g} GB"
