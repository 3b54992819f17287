"""vlora's side of the comparison with TRL: pairs encoded, and ten steps of a loss."""

import math
from dataclasses import dataclass
from pathlib import Path

import attrs
import mlx.core as mx
import numpy as np

from vlora import collate, init_state, make_optimizer, make_train_step, models
from vlora.data.format.samples import Reading, read_sample
from vlora.models.encode.answers import encode_answers
from vlora.recipe.preference import PreferenceSection
from vlora.recipe.schema import DataSection, ModelSection, OptimSection
from vlora.train.objectives.preference import make_preference_objective
from vlora.train.reference import Reference
from vlora.types import Example

from .cases import CASES, ROWS, RUNS
from .mlx_side import initial_parameters, open_backbone
from .preference_cases import IMAGES, LEARNING_RATE, LOSSES, LOWER_RATES, PAIRS_OF_A_STEP, STEPS, WORSE


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


def train(family: str, folder: Path, loss: str) -> tuple[list[float], list[float]]:
    """Take ten steps by a loss, adapters on all linear layers of the language model.

    Returns:
        Losses of the steps, and their margins.
    """
    rate = LOWER_RATES.get(loss, LEARNING_RATE)
    backbone = open_backbone(folder, CASES[family], RUNS["linears"])
    optimizer = make_optimizer(OptimSection(name="sgd", learning_rate=rate, betas=(0.0, 0.0)))
    state = init_state(backbone, optimizer)
    state = state._replace(params={name: mx.array(value) for name, value in initial_parameters(state).items()})
    section = PreferenceSection(loss=(loss,), **LOSSES[loss])
    objective = make_preference_objective("dpo", section)
    step = make_train_step(backbone, optimizer, loss=objective, reference=Reference(backbone))
    pairs = encode_pairs(open_encoder(folder))
    losses, margins = [], []
    for number in range(STEPS):
        # TRL's last batch of an epoch is what is left.
        start = PAIRS_OF_A_STEP * (number % math.ceil(len(pairs) / PAIRS_OF_A_STEP))
        own = pairs[start : start + PAIRS_OF_A_STEP]
        state, output = step(state, collate([example for pair in own for example in pair.examples]), rate)
        mx.eval(state, output)
        losses.append(float(output.nll_sum / output.n_terms))
        total, count = output.metrics["rewards/margins"]
        margins.append(float(np.asarray(total / count)))
    return losses, margins
