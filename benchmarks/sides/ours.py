"""vlora's step: the functions that `fit` calls, given rows from memory instead of a data set."""

import itertools
from pathlib import Path

from vlora import (
    Batch,
    Example,
    TrainLoop,
    collate,
    init_state,
    load_model,
    make_optimizer,
    models,
    parse_recipe,
    unbind,
)
from vlora.build import make_recipe_step
from vlora.memory.limits import memory_limits

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..cases import LEARNING_RATE, RANK, TARGETS, Case
from ..clock import Clock
from ..shapes import SHAPES, Row
from .arrays import count_bytes, floating_type

FEATURE_BYTES = 2**40


class Ours:
    """Implements `Side`."""

    def __init__(self, case: Case, folder: Path) -> None:
        """Open the model and collate the batches."""
        recipe = parse_recipe(
            "",
            {
                "model.path": str(folder),
                "data.path": "in memory",
                "lora.rank": RANK,
                "lora.alpha": 2.0 * RANK,
                "lora.targets": list(TARGETS),
                "optim.name": "adamw",
                "optim.learning_rate": LEARNING_RATE,
                "train.batch_size": case.work.rows,
                "train.grad_checkpoint": case.recomputed,
                **case.keys,
            },
        )
        # For good: the side has a process of its own.
        self._limits = memory_limits(recipe.memory)
        self._limits.__enter__()
        backbone, _ = load_model(recipe, models.find_model(recipe.model))
        backbone.keep_features(models.FeatureCache(FEATURE_BYTES) if case.cached else None)
        trainable = backbone.module.trainable_parameters()
        self.n_trainable = sum(value.size for _, value in tree_flatten(trainable))
        self.weights_bytes = count_bytes(backbone.module.parameters()) - count_bytes(trainable)
        optimizer = make_optimizer(recipe.optim)
        state = init_state(backbone, optimizer)
        unbind(backbone)
        loop = TrainLoop(
            make_recipe_step(recipe, backbone, optimizer, state),
            state,
            lambda _: recipe.optim.learning_rate,
            # As between two checkpoints: nobody waits for the step that was begun last.
            needs_sync=lambda _: False,
        )
        # The loop's alone, as in `fit`: else a second one is there during the next step.
        del state
        self._steps = loop.run(itertools.cycle([batch] for batch in collate_rows(case)))

    def take(self, n_steps: int) -> float:
        """Take steps. The loop is one ahead of its reports: so many begin in here and are waited for in the end."""
        loss = float("nan")
        for _, report in itertools.islice(self._steps, n_steps):
            loss = float("nan") if report is None else report.loss
        mx.synchronize()
        return loss

    def reset_peak(self) -> None:
        """Forget the peak."""
        mx.reset_peak_memory()

    def peak_bytes(self) -> int:
        """Tell the peak."""
        return int(mx.get_peak_memory())


def collate_rows(case: Case) -> list[Batch]:
    """Collate the case's batches, images on the device and their keys beside them, as the encoder's rows have them."""
    shape, work = SHAPES[case.shape], case.work
    grid = np.array([[1, work.side, work.side]])

    def example(name: str, row: Row) -> Example:
        supervised = np.zeros(len(row.tokens), dtype=np.bool_)
        supervised[-work.answer :] = True
        return Example(
            source=name,
            tokens=row.tokens,
            supervised=supervised,
            placeholders=row.tokens == shape.image_token,
            inputs={"pixel_values": mx.array(row.patches).astype(floating_type()), "image_grid_thw": grid},
            image_sizes=((work.image, work.image),),
            image_keys=(name,),
        )

    batches = []
    for number, rows in enumerate(work.batches(shape)):
        examples = [example(f"batch {number} row {place}", row) for place, row in enumerate(rows)]
        mx.eval([example.inputs["pixel_values"] for example in examples])
        batches.append(collate(examples, work.rows))
    return batches


def open_side(case: Case, folder: Path) -> Clock:
    """Open the side with its clock."""
    return Clock(Ours(case, folder))
