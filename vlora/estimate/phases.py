"""What a run needs beside its training steps: validations, and answers, traced on shapes as a step is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from .. import models
from ..data.collate import collate
from ..errors import ModelError, OutOfMemoryError
from ..memory.limits import naming_shortage
from ..train.eval_step import make_eval_step
from ..train.objectives.named import find_objective
from ..train.reference import make_reference
from ..types import Batch
from .caches import find_arrays, put_arrays
from .planner import UNPLANNABLE, Planner
from .simplify import compile_graph
from .trace import trace, trace_embedding, trace_step

VALIDATION, ANSWERS = "validation", "answers"
"""Names of phases."""


@attrs.frozen(kw_only=True)
class Phase:
    """What a validation, or a round of answers, needs.

    Attributes:
        name: `VALIDATION` or `ANSWERS`.
        nbytes: Bytes in use at the fullest moment, the model and the state of the training included.
        n_rows: Rows that are computed together.
        n_tokens: Tokens of each, padding included: of answers those of the questions.
        n_new_tokens: Of answers: tokens of each at most; 0 of a validation.
        kept: Bytes of what layers keep of the tokens that were read; 0 where nothing is kept.
        rows: The source of the rows.
        unplanned: Why it could not be planned, where `nbytes` is 0; empty otherwise.
    """

    name: str
    nbytes: int
    n_rows: int
    n_tokens: int
    n_new_tokens: int = 0
    kept: int = 0
    rows: str = ""
    unplanned: str = ""


def plan_validation(planner: Planner, batch: Batch, rows: str) -> Phase:
    """Plan the validation of a batch.

    Args:
        planner: The run's.
        batch: The batch.
        rows: Where its rows come from.
    """
    recipe = planner.recipe
    loss = find_objective(recipe.train.objective, recipe.preference)

    def make_step(backbone: Any) -> Callable[..., Any]:
        reference = make_reference(recipe, backbone, planner.state.params)
        step = make_eval_step(backbone, loss=loss, reference=reference, compiled=False)
        return lambda state, fed, _: step(state, fed)

    def measure() -> int:
        embedded = planner.backbone.embed(batch)
        step = trace_step(planner.backbone, planner.state, batch, embedded, make_step)
        graph = compile_graph(step.graph) if planner.backbone.is_traceable else step.graph
        held = [*step.weights, *step.state]
        return planner.change(max(planner.peak(graph, held).nbytes, _embedding(planner, batch, embedded[0])))

    nbytes, why = _or_unplannable(measure)
    return Phase(
        name=VALIDATION,
        nbytes=nbytes,
        n_rows=int(batch.tokens.shape[0]),
        n_tokens=int(batch.tokens.shape[1]),
        rows=rows,
        unplanned=why,
    )


def plan_answers(planner: Planner, prompts: Sequence[models.Prompt], n_new_tokens: int, rows: str) -> Phase:
    """Plan the answers to some questions that are asked together.

    Args:
        planner: The run's.
        prompts: The questions.
        n_new_tokens: Tokens that an answer has at most.
        rows: Where the questions come from.
    """
    reading = planner.backbone.family.forward.reading
    if reading == "equal":
        # Only questions of one length are asked together.
        prompts = [max(prompts, key=lambda prompt: prompt.length)] * len(prompts)
    with models.generating(planner.backbone):
        asked = _Asked.of(planner, prompts, n_new_tokens)
        found: list[int] = [0]

        def measure() -> int:
            with naming_shortage("planning answers", asked.batch):
                peak, found[0] = asked.measure(prompts)
            return max(peak, _embedding(planner, asked.batch, asked.differentiable))

        nbytes, why = _or_unplannable(measure)
    return Phase(
        name=ANSWERS,
        nbytes=nbytes,
        n_rows=len(prompts),
        n_tokens=max(prompt.length for prompt in prompts),
        n_new_tokens=n_new_tokens,
        kept=found[0],
        rows=rows,
        unplanned=why,
    )


def _or_unplannable(measure: Callable[[], int]) -> tuple[int, str]:
    """Give the bytes of a phase, or why they cannot be planned."""
    try:
        return measure(), ""
    except OutOfMemoryError:
        return UNPLANNABLE, ""
    except ModelError as error:
        return 0, str(error)


def _embedding(planner: Planner, batch: Batch, differentiable: Any) -> int:
    """Predict the peak of embedding a batch, beside the model and the training's state."""
    (graph, held), *_ = trace_embedding(planner.backbone, batch, differentiable)
    return planner.peak(compile_graph(graph), held).nbytes + _beside_model(planner)


@attrs.frozen(eq=False, kw_only=True)
class _Asked:
    """Questions that are embedded, and the model that reads them.

    Attributes:
        planner: The run's.
        batch: The questions with room for their answers.
        differentiable: The first part of what embedding makes of them.
        fields: All of it.
        n_new_tokens: Tokens of an answer at most.
        draw: Draws the next tokens.
    """

    planner: Planner
    batch: Batch
    differentiable: Any
    fields: Mapping[str, Any]
    n_new_tokens: int
    draw: Callable[[mx.array, int], mx.array]

    @classmethod
    def of(cls, planner: Planner, prompts: Sequence[models.Prompt], n_new_tokens: int) -> "_Asked":
        """Embed questions; nothing is computed."""
        batch = collate([models.with_room(prompt, n_new_tokens) for prompt in prompts])
        differentiable, auxiliary = planner.backbone.embed_rows(batch)
        sampler = models.Sampler(
            names=[""] * len(prompts),
            temperature=planner.recipe.eval.temperature,
            banned=models.media_tokens(planner.backbone.module, -1),
        )
        return cls(
            planner=planner,
            batch=batch,
            differentiable=differentiable,
            fields={**differentiable, **auxiliary},
            n_new_tokens=n_new_tokens,
            draw=sampler.draw,
        )

    def measure(self, prompts: Sequence[models.Prompt]) -> tuple[int, int]:
        """Predict (the peak of reading and answering, what is kept of the tokens by then), in bytes."""
        backbone = self.planner.backbone
        reading = backbone.family.forward.reading
        reader = models.make_reader(backbone, self.batch, dict(self.fields), prompts, self.n_new_tokens, reading)
        no_tokens = np.zeros(len(prompts), dtype=np.int32)
        last = self.n_new_tokens - 2
        if reading == "anew":
            # The last token is chosen by the longest rows.
            return self._trace(reader, lambda: reader.after(no_tokens, last) if last >= 0 else reader.prompts())[0], 0
        first, arrays = self._trace(reader, reader.prompts)
        kept = sum(value.nbytes for value in arrays)
        if last < 0:
            return first, kept
        number = last if reading == "kept" else 0
        second, arrays = self._trace(reader, lambda: reader.after(no_tokens, number), arrays)
        kept = sum(value.nbytes for value in arrays)
        # Caches that the model makes itself grow with the answer.
        length = max(prompt.length for prompt in prompts)
        grown = kept * self.n_new_tokens // length if reading == "equal" else 0
        return max(first, second + grown), kept + grown

    def _trace(
        self, reader: models.Reader, read: Callable[[], mx.array], kept: Sequence[mx.array] = ()
    ) -> tuple[int, list[mx.array]]:
        """Trace what reads rows and draws tokens: (its peak, arrays of the sizes of what it keeps)."""
        module = self.planner.backbone.module
        params = dict(tree_flatten(module.parameters()))
        # Positions and masks keep their values: some models read them.
        leaves = {name: value for name, value in tree_flatten(self.fields) if mx.issubdtype(value.dtype, mx.floating)}
        inputs = {
            **{f"weight {name}": value for name, value in params.items()},
            **{f"field {name}": value for name, value in leaves.items()},
            **{f"kept {number}": value for number, value in enumerate(kept)},
        }
        sizes: list[mx.array] = []

        def run(given: dict[str, mx.array]) -> Any:
            module.update(tree_unflatten([(name, given[f"weight {name}"]) for name in params]))
            fields = [(name, given.get(f"field {name}", value)) for name, value in tree_flatten(self.fields)]
            reader.fields = tree_unflatten(fields)
            put_arrays(reader.caches, [given[f"kept {number}"] for number in range(len(kept))])
            drawn = self.draw(read(), 0)
            made = find_arrays(reader.caches)
            sizes.extend(mx.broadcast_to(mx.zeros((), value.dtype), value.shape) for value in made)
            return [drawn, *made]

        batch = reader.batch
        try:
            graph, names = trace(run, inputs)
        finally:
            module.update(tree_unflatten(list(params.items())))
            reader.batch = batch
        held = [name for key, name in names.items() if not key.startswith("kept ")]
        return self.planner.peak(graph, held).nbytes + _beside_model(self.planner), sizes


def _beside_model(planner: Planner) -> int:
    """Count the bytes of the training's state that are not the model's own: moments, masters of another type."""
    state, own = planner.state, dict(tree_flatten(planner.backbone.module.trainable_parameters()))
    moments: int = sum(value.nbytes for _, value in tree_flatten(state.opt_state))
    masters: int = sum(value.nbytes for name, value in state.params.items() if value.dtype != own[name].dtype)
    return moments + masters
