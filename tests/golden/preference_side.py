"""vlora's side of the comparison with TRL: pairs encoded, and ten steps of a loss."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import attrs
import mlx.core as mx
import numpy as np

from vlora import collate, init_state, make_optimizer, make_train_step, models
from vlora.data.format.samples import Reading, read_sample
from vlora.measured import find_means
from vlora.models.encode.answers import add_mismatched, encode_answers
from vlora.recipe.preference import PreferenceSection
from vlora.recipe.schema import DataSection, ModelSection, OptimSection
from vlora.train.accumulation import read_metrics
from vlora.train.objectives.preference import make_preference_objective
from vlora.train.reference import Reference
from vlora.types import Example

from .cases import CASES, ROWS, RUNS, Array
from .mlx_side import initial_parameters, open_backbone
from .preference_cases import IMAGES, LOSSES, PAIRS_OF_A_STEP, PRECISIONS, ROWS_OF_A_STEP, STEPS, WORSE, Loss


@dataclass(frozen=True)
class Pair:
    """A pair as vlora encodes it.

    Attributes:
        prompt: The text before the answers.
        texts: The answers, the better one first, with their ends.
        examples: Both as examples.
    """

    prompt: str
    texts: tuple[str, str]
    examples: tuple[Example, Example]


def open_encoder(folder: Path) -> models.Encoder:
    """Open the encoder of a checkpoint."""
    section = ModelSection(path=str(folder))
    files = models.find_model(section)
    data = DataSection(path="rows", train_on_completions=True)
    return models.make_encoder(models.load_processor(files, section), files.config, files.family, data)


def encode_pairs(encoder: models.Encoder) -> list[Pair]:
    """Encode the rows that have an image."""
    pairs = []
    for number, name in enumerate(IMAGES):
        (_, question), (_, answer) = ROWS[name].turns
        row = {"images": ROWS[name].images(), "prompt": question, "chosen": answer, "rejected": WORSE[name]}
        sample, _ = read_sample(row, name, Reading(preferences="pairs"))
        chosen, rejected = (attrs.evolve(example, group=number) for example in encode_answers(encoder, sample))
        texts = []
        for turns in (sample.turns, sample.rejected):
            written = encoder.writer.write(attrs.evolve(sample, turns=turns, rejected=()))
            start, end = written.spans[-1]
            prompt = written.text[:start]
            texts.append(written.text[start:end])
        pairs.append(Pair(prompt, (texts[0], texts[1]), (chosen, rejected)))
    return pairs


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        losses: Of its steps.
        metrics: Means of each step by name; a step that has none of a value has NaN.
        initial: The adapters' factors before.
        final: And after.
    """

    losses: list[float]
    metrics: dict[str, list[float]]
    initial: dict[str, Array]
    final: dict[str, Array]


def train(family: str, folder: Path, precision: str, run: str) -> Result:
    """Take ten steps by a loss, adapters on all linear layers of the language model."""
    loss = LOSSES[run]
    backbone = open_backbone(folder, CASES[family], RUNS[PRECISIONS[precision]])
    optimizer = make_optimizer(OptimSection(name="sgd", learning_rate=loss.rate, betas=(0.0, 0.0)))
    state = init_state(backbone, optimizer)
    initial = initial_parameters(state)
    state = state._replace(params={name: mx.array(value) for name, value in initial.items()})
    losses_of = {"loss": tuple(loss.parts) or (loss.name,), "weights": tuple(loss.parts.values())}
    section = PreferenceSection(**losses_of, **loss.keys)  # type: ignore[arg-type]
    objective = make_preference_objective(loss.objective, section)
    step = make_train_step(backbone, optimizer, loss=objective, reference=Reference(backbone))
    losses, measured = [], []
    for examples in itertools.islice(itertools.cycle(make_batches(open_encoder(folder), loss)), STEPS):
        state, output = step(state, collate(examples), loss.rate)
        mx.eval(state, output)
        losses.append(float(output.nll_sum / output.n_terms))
        measured.append(find_means(read_metrics(output.metrics)))
    names = {name for means in measured for name in means}
    return Result(
        losses=losses,
        metrics={name: [means.get(name, math.nan) for means in measured] for name in names},
        initial=initial,
        final={name: np.array(value) for name, value in state.params.items()},
    )


def make_batches(encoder: models.Encoder, loss: Loss) -> list[list[Example]]:
    """Make the examples of each step of an epoch; the last step has what is left, as TRL's has."""
    pairs = encode_pairs(encoder)
    if loss.objective != "kto":
        return [
            [example for pair in pairs[start : start + PAIRS_OF_A_STEP] for example in pair.examples]
            for start in range(0, len(pairs), PAIRS_OF_A_STEP)
        ]
    rows = [(attrs.evolve(example, group=None),) for pair in pairs for example in pair.examples]
    return [add_mismatched(rows[start : start + ROWS_OF_A_STEP]) for start in range(0, len(rows), ROWS_OF_A_STEP)]
