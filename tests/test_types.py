"""The records that flow from a row to a step."""

import mlx.core as mx
import numpy as np
import pytest

from vlora import collate
from vlora.types import Cut, Example, ImageSlot, StepOutput, TrainState, Turn, positions_of


def example_of(n_tokens: int, source: str = "row") -> Example:
    """Make an example that is supervised but for its first token."""
    tokens = np.arange(n_tokens, dtype=np.int32)
    return Example(source, tokens, tokens > 0, np.zeros(n_tokens, dtype=np.bool_))


def test_a_turns_text_is_without_its_images() -> None:
    """In the order of its parts."""
    assert Turn("user", ("What", ImageSlot(0), " is it?")).text == "What is it?"
    assert Turn("user", (ImageSlot(0),)).text == ""


@pytest.mark.parametrize(("n_lost", "lost"), [(0, ""), (1200, ", 1,200 supervised ones lost")])
def test_a_cut_names_its_row(n_lost: int, lost: str) -> None:
    """With how much was kept."""
    cut = Cut(source="row 3", n_tokens=5000, n_kept=2048, n_lost=n_lost)
    assert cut.describe() == f"row 3 (cut from 5,000 to 2,048 tokens{lost})"


def test_examples_of_a_batch_stand_in_their_rows() -> None:
    """Each from its row's beginning, as far as the batch is read; a packed one without its last token."""
    examples = [example_of(3), example_of(6)]
    batch = collate(examples)
    packed = batch._replace(segment_starts=((0, 0), (0, 2)))

    length = batch.tokens.shape[1]
    assert batch.spans == [(0, 0, min(3, length)), (1, 0, min(6, length))]
    assert packed.spans == [(0, 0, 2), (0, 2, 5)]


@pytest.mark.parametrize(("n_tokens", "places"), [(1, 1), (2, 1), (9, 8)])
def test_a_packed_example_takes_a_place_at_least(n_tokens: int, places: int) -> None:
    """One less than it has tokens, for the last one predicts nothing."""
    assert positions_of(example_of(n_tokens)) == places


def test_states_and_outputs_cross_into_compiled_functions() -> None:
    """`mx.compile` takes them and gives them back as what they are."""

    @mx.compile
    def step(state: TrainState) -> tuple[TrainState, StepOutput]:
        params = {"a": state.params["a"] * 2}
        return TrainState(params, state.opt_state, state.step + 1), StepOutput(
            mx.array(1.0), mx.array(2.0), mx.array(3.0), mx.array(2.0)
        )

    state, output = step(TrainState({"a": mx.array(4.0)}, {}, mx.array(0)))

    assert isinstance(state, TrainState)
    assert isinstance(output, StepOutput)
    assert (state.params["a"].item(), state.step.item(), output.n_supervised.item()) == (8.0, 1, 2.0)
