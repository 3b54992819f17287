"""The steps of a recipe's epochs with nothing beside them: batches collated and on the device before the clock starts.

    python -m benchmarks.sides.on_device RECIPE FILE

The functions that `fit` calls take the steps, in the order in which a run takes those of its first epoch: as in the
first epoch, where the tower runs in every step, and as in later ones, where its features are kept. Here all of them are
kept in memory. Every batch is taken once before it is timed, so that nothing is traced or compiled on the clock.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from vlora import (
    Batch,
    Example,
    Recipe,
    TrainLoop,
    init_state,
    load_data,
    load_model,
    make_optimizer,
    make_reference,
    models,
    parse_recipe,
    unbind,
)
from vlora.build import Data, make_recipe_step
from vlora.compilation.known_kernels import begin
from vlora.data.loader import DataLoader
from vlora.data.measuring import measure_rows
from vlora.data.prefetch import WorkerPool, count_workers
from vlora.data.sampler import step_batches, steps_per_epoch
from vlora.memory.limits import describe_device, memory_limits
from vlora.models.encode.answers import encode_answers

# isort: split
import mlx.core as mx
import numpy as np

MOST_STEPS = 100
"""Of an epoch: their batches are all on the device."""

FEATURE_BYTES = 2**40
PIXELS_BYTES = 2**13
"""Arrays from this size on are pixels; smaller ones (grids, sizes) stay with the host, which reads them."""


def measure(recipe: Recipe) -> dict[str, Any]:
    """Time the steps of a recipe's first epoch, without kept features and with them.

    Returns:
        Of each epoch: steps, rows, seconds, tokens; the device.

    Raises:
        ValueError: The recipe packs its rows: which of them a batch has is found out on the way.
    """
    if recipe.train.batching == "packed":
        msg = "train.batching: found 'packed'; the steps alone are measured with 'shuffled' or 'grouped'"
        raise ValueError(msg)
    with memory_limits(recipe.memory):
        # The kernels of a run, from where a run keeps them.
        begin(recipe.model.path).wait()
        data = load_data(recipe)
        backbone, _ = load_model(recipe, data.files)
        steps = prepare(recipe, data, backbone)
        optimizer = make_optimizer(recipe.optim)
        state = init_state(backbone, optimizer)
        reference = make_reference(recipe, backbone, state.params)
        unbind(backbone)
        loop = TrainLoop(
            make_recipe_step(recipe, backbone, optimizer, state, reference=reference),
            state,
            lambda _: recipe.optim.learning_rate,
            # As between two checkpoints: nobody waits for the step that was begun last.
            needs_sync=lambda _: False,
        )
        # The loop's alone, as in `fit`: else a second one is there during the next step.
        del state
        figures: dict[str, Any] = {"device": describe_device().kind}
        rows = sum(batch.n_groups for batches in steps for batch in batches)
        tokens = sum(len(row.tokens) for batches in steps for batch in batches for row in batch.rows)
        for epoch in (1, 2):
            if epoch > 1 and recipe.features.cache and backbone.why_features_change() is None:
                backbone.keep_features(models.FeatureCache(FEATURE_BYTES))
                take(loop, steps)
            take(loop, steps)
            seconds = take(loop, steps)
            figures |= {
                f"epoch{epoch}_steps": len(steps),
                f"epoch{epoch}_seconds": seconds,
                f"epoch{epoch}_rows_per_s": rows / seconds,
                f"epoch{epoch}_tokens_per_s": tokens / seconds,
            }
        return figures | {"peak_device_gb": mx.get_peak_memory() / 1e9}


def take(loop: TrainLoop, steps: Sequence[Sequence[Batch]]) -> float:
    """Take steps, wait for the device, and say how many seconds that was."""
    began = time.perf_counter()
    for _ in loop.run(steps):
        pass
    mx.synchronize()
    return time.perf_counter() - began


def prepare(recipe: Recipe, data: Data, backbone: models.MlxVlmBackbone) -> list[list[Batch]]:
    """Encode and collate the batches of the first epoch, and put them onto the device."""
    train, n_rows, encoder = recipe.train, len(data.train), data.encoder.with_image_keys()
    per_epoch = steps_per_epoch(n_rows, train.batch_size, train.gradient_accumulation_steps)
    # Found before threads ask for it.
    multiple = backbone.length_multiple if backbone.joins else None
    with WorkerPool(count_workers(recipe.data.workers)) as workers:
        reader = DataLoader(
            train=data.train,
            data=recipe.data,
            batch_size=train.batch_size,
            workers=workers,
            # Both answers of a pair show one image, by its key.
            encode=lambda sample: tuple(map(backbone.prepare, encode_answers(encoder, sample))),
            prepare_batch=backbone.prepare_batch,
            multiple=multiple,
        )
        plan = step_batches(
            n_rows,
            train.batch_size,
            accumulation=train.gradient_accumulation_steps,
            seed=train.seed,
            shuffle=recipe.data.shuffle,
            n_steps=min(per_epoch, MOST_STEPS),
            measure=measure_rows(reader, models.LengthEstimator(data.encoder)) if train.batching == "grouped" else None,
        )
        return [
            [place(batch) for batch in batches] for batches in reader.collate(data.train, plan, recipe.data.prefetch)
        ]


def place(batch: Batch) -> Batch:
    """Put a batch onto the device, its rows' pixels too.

    What was laid out ahead is on the device as soon as a step has read it, which is before it is timed.
    """
    if batch.ahead is not None:
        return batch
    rows = tuple(attrs.evolve(row, inputs=_place_inputs(row)) for row in batch.rows)
    arrays = [value for value in batch if isinstance(value, mx.array)]
    pixels = [value for row in rows for value in row.inputs.values() if isinstance(value, mx.array)]
    mx.eval(arrays, pixels)
    return batch._replace(rows=rows)


def _place_inputs(row: Example) -> Mapping[str, Any]:
    return {
        name: mx.array(value) if isinstance(value, np.ndarray) and value.nbytes >= PIXELS_BYTES else value
        for name, value in row.inputs.items()
    }


def main(arguments: Sequence[str]) -> None:
    """Measure the recipe that the command line names."""
    path, file = map(Path, arguments)
    # A built-in model is built beside the output.
    recipe = parse_recipe(path.read_text(encoding="utf-8"), {"output.path": str(file.parent / "output")})
    file.write_text(json.dumps(measure(recipe)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
