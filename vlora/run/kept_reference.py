"""Log-probabilities of the model that training starts from, computed before the first step and kept per row."""

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from .. import models
from ..build import Data
from ..data.rows import RowDataset
from ..data.sampler import share_steps
from ..errors import PreferenceError
from ..events import Event, Warned, Working
from ..features.kept_numbers import KeptNumbers
from ..memory.limits import naming_shortage
from ..output.paths import expand_home
from ..recipe.schema import Recipe
from ..system.cache import cache_folder
from ..system.digests import digest
from ..train.objectives.preference import PREFERRED, split_reference
from ..train.reference import make_reference_step
from ..types import Batch, Example, Sample, TrainState
from .context import RunContext

FOLDER = "references"
"""Below features.path."""


def keep_reference(run: RunContext) -> Generator[Event, None, None]:
    """Compute what is compared with the model that training starts from, keep it, and let rows bring it.

    Several devices share the rows as in training, and tell one another what they have found.

    Args:
        run: A run whose model is as training starts from it. Its loader gives examples with the columns of a reference
            from then on.

    Raises:
        VloraError: A row cannot be learned from, or there is no memory for a batch.
    """
    recipe = run.recipe
    yield Working(what="computing the reference")
    kept = _Kept(run.data, run.backbone, _open(recipe, run))
    encode, join = run.loader.encode, run.loader.join
    run.loader.encode = kept.watched(encode)
    state, step = _state_of_start(run.backbone), make_reference_step(run.backbone)
    try:
        for rows in filter(None, (run.data.train, run.data.valid)):
            for batch in _unknown(run, rows, kept):
                with naming_shortage("computing the reference", batch):
                    kept.take(batch, step(state, batch))
    finally:
        # What was skipped is told when it is met in the run.
        run.loader.skipped.clear()
    # First: a run that finds the numbers computes none again, and finds the features that they came from. Those may be
    # gone, or the numbers be of a run that kept none: they are shared behind the first epoch once more.
    run.exchange_features()
    kept.learn(run.ranks.gather(kept.tell()))
    kept.numbers.save()
    run.loader.encode, run.loader.join = kept.completed(encode), join
    if kept.numbers.note is not None:
        yield Warned(message=kept.numbers.note)


def _open(recipe: Recipe, run: RunContext) -> KeptNumbers:
    """Find what earlier runs have kept of the same model."""
    section = recipe.features
    if not section.disk_gb or run.backbone.gathers:
        # Of divided weights no rank has what tells one model from another.
        return KeptNumbers(None)
    root = expand_home(section.path, "features.path") if section.path else cache_folder() / "features"
    module = run.backbone.module
    params = dict(tree_flatten(module.parameters()))
    return KeptNumbers.open(root / FOLDER, models.features_fingerprint(module, params, run.data.files.config))


def _state_of_start(backbone: models.MlxVlmBackbone) -> TrainState:
    params = dict(tree_flatten(backbone.module.trainable_parameters()))
    return TrainState({name: value.astype(mx.float32) for name, value in params.items()}, {}, mx.array(0))


def _unknown(run: RunContext, rows: RowDataset, kept: "_Kept") -> Iterator[Batch]:
    """Read this rank's share of all rows, and give batches of the examples that are not kept.

    Where weights are divided all ranks are given a batch, or none is: a stand-in, if only others have a row.
    """
    loader, ranks, gathers = run.loader, run.ranks, run.backbone.gathers
    size = loader.batch_size * ranks.size
    steps = ([list(range(start, min(start + size, len(rows))))] for start in range(0, len(rows), size))
    plan = share_steps(steps, ranks.rank, ranks.size, loader.batch_size, is_even=gathers)
    loader.join = kept.join_unknown
    for batches in loader.collate(rows, plan, loader.data.prefetch):
        is_needed = any(not batch.is_stand_in for batch in batches)
        if gathers:
            is_needed = ranks.sum(float(is_needed)) > (0.0,)
        if is_needed:
            yield from batches


@attrs.define(eq=False)
class _Kept:
    """What is known of examples.

    Attributes:
        data: The run's rows.
        backbone: Its model.
        numbers: By the content of examples.
    """

    data: Data
    backbone: models.MlxVlmBackbone
    numbers: KeptNumbers
    _keys: dict[tuple[str, float], str] = attrs.field(factory=dict, init=False)

    def watched(self, encode: Callable[[Sample], tuple[Example, ...]]) -> Callable[[Sample], tuple[Example, ...]]:
        """Let rows be encoded, and remember what their examples are known by."""

        def watch(sample: Sample) -> tuple[Example, ...]:
            examples = self.data.encode(sample)
            self._keys |= {_name(example): _make_key(example) for example in examples}
            del examples
            return encode(sample)

        return watch

    def join_unknown(self, rows: list[tuple[Example, ...]]) -> list[Example]:
        """Give the examples of rows that are not kept."""
        return [example for row in rows for example in row if self._keys[_name(example)] not in self.numbers.numbers]

    def take(self, batch: Batch, sums: mx.array) -> None:
        """Keep what was computed for a batch; nothing of a stand-in."""
        # Waited for in any case: the others gather with this rank.
        found = np.asarray(sums).astype(np.float64).sum(axis=0).tolist()
        if batch.is_stand_in:
            return
        for example, value in zip(batch.rows, found, strict=False):
            self.numbers.numbers[self._keys[_name(example)]] = value

    def tell(self) -> list[tuple[str, float, str, float]]:
        """Give what is kept of the rows that were read: (an example's source, preferred or not, key, number)."""
        numbers = self.numbers.numbers
        return [(*name, key, numbers[key]) for name, key in self._keys.items() if key in numbers]

    def learn(self, told: Sequence[Sequence[tuple[str, float, str, float]]]) -> None:
        """Keep what every rank has told, in the order of the ranks, so that all keep the same."""
        for source, preferred, key, value in itertools.chain.from_iterable(told):
            self._keys[source, preferred] = key
            self.numbers.numbers[key] = value

    def completed(self, encode: Callable[[Sample], tuple[Example, ...]]) -> Callable[[Sample], tuple[Example, ...]]:
        """Let rows be encoded, and bring what is kept of them.

        Raises:
            PreferenceError: Nothing is kept of one: it has changed since.
        """

        def complete(sample: Sample) -> tuple[Example, ...]:
            return tuple(
                attrs.evolve(example, columns={**example.columns, **split_reference(self._find(example))})
                for example in encode(sample)
            )

        return complete

    def _find(self, example: Example) -> float:
        value = self.numbers.numbers.get(self._keys.get(_name(example), ""))
        if value is None:
            msg = f"{example.source}: the row has changed since the run began; begin it again"
            raise PreferenceError(msg)
        return value


def _name(example: Example) -> tuple[str, float]:
    return example.source, float(np.asarray(example.columns[PREFERRED]))


def _make_key(example: Example) -> str:
    """Stand for all that an example's log-probability depends on besides the model."""
    parts = [example.tokens.tobytes(), example.supervised.tobytes()]
    if example.image_keys or not example.inputs:
        return digest([*parts, *(key.encode() for key in example.image_keys)])
    return digest([*parts, *_bytes_of(dict(sorted(example.inputs.items())))])


def _bytes_of(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name).encode()
            yield from _bytes_of(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _bytes_of(inner)
    else:
        array = np.ascontiguousarray(value)
        yield f"{array.dtype}{array.shape}".encode()
        yield array.tobytes()
