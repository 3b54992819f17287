"""From a row to the examples that a step takes of it: one, or the two answers of a pair. The encoder does the work."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ...data.truncate import is_per_token
from ...errors import SampleError
from ...train.objectives.preference import MISMATCHED, PREFERRED
from ...types import Example, Sample
from .encoder import Encoder


def encode_answers(encoder: Callable[[Sample], Example], sample: Sample) -> tuple[Example, ...]:
    """Encode a row: its answer, or the better one and the worse one, in this order.

    A row with two answers, or with a mark of its one, says in the column `PREFERRED` which an example is. Of their
    prompts nothing is learned, and they are not cut.

    Args:
        encoder: The model's, or what measures rows for it; with such rows its section has `train_on_completions`.
        sample: The row.

    Raises:
        SampleError: The row cannot be learned from; the message begins with its source.
    """
    if sample.is_wanted is None and not sample.rejected:
        return (encoder(sample),)
    turns = (sample.turns, sample.rejected) if sample.rejected else (sample.turns,)
    marks = (1.0, 0.0) if sample.rejected else (float(bool(sample.is_wanted)),)
    samples = [attrs.evolve(sample, turns=answer, rejected=(), is_wanted=None) for answer in turns]
    encoded = encoder.encode_answers(samples) if isinstance(encoder, Encoder) else map(encoder, samples)
    examples = tuple(
        attrs.evolve(example, columns={PREFERRED: mark}) for example, mark in zip(encoded, marks, strict=True)
    )
    examples = (examples[0], *(_with_pixels_of(examples[0], other) for other in examples[1:]))
    for example in examples:
        if example.cut is not None:
            msg = (
                f"{sample.source}: {example.cut.n_tokens:,} tokens exceed data.max_seq_length={example.cut.n_kept}, "
                "and an answer that is compared is not cut; raise it"
            )
            raise SampleError(msg)
    if len(examples) > 1 and np.array_equal(examples[0].tokens, examples[1].tokens):
        msg = (
            f"{sample.source}: 'chosen' and 'rejected' are the same tokens in the model's chat template, which leaves "
            "out white space and thoughts; give two answers that differ, or leave the row out"
        )
        raise SampleError(msg)
    return examples


def _with_pixels_of(first: Example, second: Example) -> Example:
    """Let the second answer of a row hold the arrays of the first one's images: they are held once then."""
    if not first.image_keys or first.image_keys != second.image_keys or not isinstance(second.inputs, dict):
        return second
    known = first.inputs if isinstance(first.inputs, dict) else {}
    inputs = {
        name: known[name] if name in known and not is_per_token(value, len(second.tokens)) else value
        for name, value in second.inputs.items()
    }
    return attrs.evolve(second, inputs=inputs)


def add_mismatched(rows: Sequence[tuple[Example, ...]]) -> list[Example]:
    """Put the answers of other rows to the questions of a microbatch, by which the divergence of KTO is estimated.

    Behind each answer comes that of the row before in the microbatch, of the first one that of the last. So whatever
    the order of rows, an estimate is made of the answers that are learned with it. A row that is alone has none.

    Args:
        rows: Examples of each row; those that have such answers already stay as they are.

    Returns:
        The examples of all rows, with the column `MISMATCHED`.
    """
    made: list[Example] = []
    if any(example.columns.get(MISMATCHED) for row in rows for example in row):
        return [example for row in rows for example in row]
    for number, row in enumerate(rows):
        # Numbers of rows are not negative.
        grouped = [
            attrs.evolve(example, group=-1 - len(made) - place) if example.group is None else example
            for place, example in enumerate(row)
        ]
        made.extend(link_answers(grouped, rows[number - 1] if len(rows) > 1 else ()))
    return made


def link_answers(row: Sequence[Example], other: Sequence[Example]) -> tuple[Example, ...]:
    """Put the answers of another row behind those of a row, to its question.

    Args:
        row: Its examples, with their groups.
        other: Those of the row before it in its microbatch; none if it is alone.

    Returns:
        The examples with the column `MISMATCHED`.
    """
    made = []
    for place, example in enumerate(row):
        columns = {**example.columns, MISMATCHED: 0.0}
        made.append(attrs.evolve(example, columns=columns))
        if other:
            joined = _join(example, other[place % len(other)])
            made.append(attrs.evolve(joined, columns={**columns, MISMATCHED: 1.0}, group=example.group))
    return tuple(made)


def _join(question: Example, answer: Example) -> Example:
    """Join the question of an example and the answer of another one."""
    n_question, n_answer = (int(np.flatnonzero(example.supervised)[0]) for example in (question, answer))

    def join(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(question, name)[:n_question], getattr(answer, name)[n_answer:]])

    inputs = dict(question.inputs)
    for name, value in inputs.items():
        other: Any = answer.inputs.get(name)
        if is_per_token(value, len(question.tokens)):
            n_behind = len(answer.tokens) - n_answer
            behind = (
                other[:, n_answer:]
                if is_per_token(other, len(answer.tokens))
                else np.zeros((*value.shape[:1], n_behind, *value.shape[2:]), value.dtype)
            )
            inputs[name] = np.concatenate([value[:, :n_question], behind], axis=1)
    return attrs.evolve(
        question,
        source=f"{question.source} with the answer of {answer.source}",
        tokens=join("tokens"),
        supervised=join("supervised"),
        placeholders=join("placeholders"),
        inputs=inputs,
        cut=None,
        mark=None,
    )
