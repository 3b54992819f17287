"""Rows with preferences as examples: prompts alike, answers learned with their ends, mismatched answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from tests.training import picture
from tests.usual import usual
from vlora import models, parse_recipe
from vlora.build import Data, load_data
from vlora.errors import SampleError
from vlora.models.encode.answers import add_mismatched, encode_answers, link_answers
from vlora.train.objectives.preference import MISMATCHED, PREFERRED
from vlora.types import Example

CheckpointFactory = Callable[[str], Path]


def open_rows(folder: Path, rows: list[dict[str, Any]], objective: str = "dpo", **keys: Any) -> Data:
    """Open rows as a recipe would."""
    named = {name.replace("__", "."): value for name, value in keys.items()}
    recipe = parse_recipe("", {"model.path": str(folder), "data.path": "-", "train.objective": objective, **named})
    return load_data(recipe, rows)


PAIR = {"prompt": "What is it?", "chosen": "a red square", "rejected": "two hats", "images": [picture(48, 32, 1)]}


def text_of(data: Data, example: Example, *, learned: bool) -> str:
    """Decode the text tokens that are learned, or the others."""
    chosen = example.tokens[(example.supervised == learned) & ~example.placeholders]
    return str(data.encoder.tokenizer.decode(chosen.tolist()))


@pytest.mark.parametrize("family", usual(["qwen2_vl", "qwen3_vl", "llava", "gemma3", "idefics3", "paligemma"]))
def test_answers_of_a_pair_share_their_prompt(family: str, checkpoint: CheckpointFactory) -> None:
    """Ids before the answers are the same, and those of the question alone; answers are learned, ends included."""
    data = open_rows(checkpoint(family), [PAIR])
    sample = data.train[0]

    chosen, rejected = data.encode(sample)

    starts = [int(np.flatnonzero(example.supervised)[0]) for example in (chosen, rejected)]
    assert starts[0] == starts[1]
    np.testing.assert_array_equal(chosen.tokens[: starts[0]], rejected.tokens[: starts[0]])
    np.testing.assert_array_equal(chosen.placeholders[: starts[0]], rejected.placeholders[: starts[0]])
    assert [example.columns for example in (chosen, rejected)] == [{PREFERRED: 1.0}, {PREFERRED: 0.0}]
    for example, answer in ((chosen, "a red square"), (rejected, "two hats")):
        assert answer in text_of(data, example, learned=True)
        assert answer not in text_of(data, example, learned=False)
        assert int(example.tokens[np.flatnonzero(example.supervised)[-1]]) in data.encoder.stop_ids
    assert chosen.image_keys == rejected.image_keys
    keyed = encode_answers(data.encoder.with_image_keys(), sample)
    assert keyed[0].image_keys == keyed[1].image_keys != ()
    assert keyed[0].inputs["pixel_values"] is keyed[1].inputs["pixel_values"], "pixels are held twice"


def test_answers_of_the_same_tokens_are_refused(checkpoint: CheckpointFactory) -> None:
    """A chat template that takes white space off leaves nothing to compare; one that keeps it leaves two answers."""
    data = open_rows(checkpoint("gemma3"), [{**PAIR, "rejected": f"{PAIR['chosen']} \n"}])

    with pytest.raises(SampleError, match=r"row 0: 'chosen' and 'rejected' are the same tokens"):
        data.encode(data.train[0])

    kept = open_rows(checkpoint("qwen2_vl"), [{**PAIR, "rejected": f"{PAIR['chosen']} two"}])
    assert len(kept.encode(kept.train[0])) == 2


def test_a_pair_is_not_cut(checkpoint: CheckpointFactory) -> None:
    """A row whose answer does not fit is refused, and not compared in part."""
    data = open_rows(checkpoint("qwen3_vl"), [{**PAIR, "rejected": "two hats " * 30}], data__max_seq_length=40)

    with pytest.raises(SampleError, match=r"rows row 0: \d+ tokens exceed data.max_seq_length=40, and an answer"):
        data.encode(data.train[0])


def test_other_rows_are_one_example(checkpoint: CheckpointFactory) -> None:
    """Without preferences a row is encoded as it was."""
    row = {"question": "What is it?", "answer": "a red square"}
    data = open_rows(checkpoint("qwen3_vl"), [row], objective="sft", data__train_on_completions=True)

    (example,) = encode_answers(data.encoder, data.train[0])

    assert not example.columns
    np.testing.assert_array_equal(example.tokens, data.encoder(data.train[0]).tokens)


@pytest.mark.parametrize("family", usual(["qwen3_vl", "gemma3"]))
def test_mismatched_answers(family: str, checkpoint: CheckpointFactory) -> None:
    """Behind each example stands its question with the answer of the row before, as that row would have it encoded."""
    words = ["a red square", "two hats", "no"]
    rows = [
        {"prompt": f"What is {number}?", "completion": word, "label": number == 0, "images": [picture(48, 32, number)]}
        for number, word in enumerate(words)
    ]
    swapped = [{**row, "completion": words[number - 1]} for number, row in enumerate(rows)]
    data, other = (open_rows(checkpoint(family), own, objective="kto") for own in (rows, swapped))

    made = add_mismatched([data.encode(data.train[number]) for number in range(3)])
    expected = [other.encode(other.train[number])[0] for number in range(3)]

    assert [example.columns[MISMATCHED] for example in made] == [0.0, 1.0] * 3
    assert [example.columns[PREFERRED] for example in made[::2]] == [1.0, 0.0, 0.0]
    assert made[1].source == "rows row 0 with the answer of rows row 2"
    assert len({example.group for example in made}) == 3
    for found, wanted in zip(made[1::2], expected, strict=True):
        np.testing.assert_array_equal(found.tokens, wanted.tokens)
        np.testing.assert_array_equal(found.supervised, wanted.supervised)
        np.testing.assert_array_equal(found.placeholders, wanted.placeholders)
        for name, value in wanted.inputs.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(found.inputs[name], value, err_msg=name)


def test_pairs_take_the_answers_of_other_rows(checkpoint: CheckpointFactory) -> None:
    """Neither answer of a pair is put to its own question; a row that is alone has no mismatched answer."""
    data = open_rows(checkpoint("qwen3_vl"), [PAIR, {**PAIR, "chosen": "yes", "rejected": "no"}], objective="kto")
    rows = [data.encode(data.train[number]) for number in range(2)]

    made, alone = add_mismatched(rows), add_mismatched(rows[:1])

    said = [text_of(data, example, learned=True) for example in made]
    assert [word.replace("<|im_end|>", "").strip() for word in said] == [
        *("a red square", "yes", "two hats", "no", "yes", "a red square", "no", "two hats"),
    ]
    assert [example.columns[MISMATCHED] for example in alone] == [0.0, 0.0]
    linked = [
        link_answers([attrs.evolve(one, group=place) for one in row], rows[place - 1]) for place, row in enumerate(rows)
    ]
    assert [example.source for row in linked for example in row] == [example.source for example in made]
    assert [example.source for example in add_mismatched(linked)] == [example.source for example in made]
    assert (models.add_mismatched, models.link_answers) == (add_mismatched, link_answers)
