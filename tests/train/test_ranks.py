"""What ranks add up and tell one another, with real processes where there is more than one."""

import json
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.sampler import share_steps, step_batches
from vlora.errors import RanksError
from vlora.output.checkpoint import read_arrays
from vlora.recipe.preference import PreferenceSection
from vlora.system.launching import launch
from vlora.system.rank_environment import make_environments
from vlora.train import ranks as module
from vlora.train.objectives.preference import make_preference_objective
from vlora.train.ranks import open_ranks


def test_one_rank_is_a_run_by_itself() -> None:
    """Nothing is changed, and nothing is waited for."""
    ranks, gradients = open_ranks({}), {"a": mx.ones((2, 3))}
    found, numbers = ranks.sum_step(gradients, (mx.array(2.0), 3.0))

    assert (ranks.rank, ranks.size, ranks.is_first) == (0, 1, True)
    assert found is gradients
    assert [float(number) for number in numbers] == [2.0, 3.0]
    assert (ranks.sum(2.0), ranks.gather("x"), ranks.gather_others("x")) == ((2.0,), ["x"], [])
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    assert ranks.share_loss(kto := make_preference_objective("kto", PreferenceSection())) is kto


def test_ranks_that_do_not_find_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the rank, and what to look at."""

    def fail(**_: object) -> None:
        message = "[ring] Couldn't bind socket"
        raise RuntimeError(message)

    monkeypatch.setattr(mx.distributed, "init", fail)
    with pytest.raises(RanksError, match=r"rank 1 does not find the others \(\[ring\] Couldn't bind"):
        open_ranks({"MLX_RANK": "1"})


@given(st.lists(st.integers(1, 40), max_size=12), st.integers(1, 100))
def test_messages_have_all_gradients_once(sizes: list[int], most: int) -> None:
    """In the order of the names, joined as far as they are small."""
    gradients = {f"{number:03}": mx.zeros((size,)) for number, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MESSAGE_BYTES", 4 * most)
        messages = module._messages(gradients)

    assert [name for names in messages for name in names] == list(gradients)
    assert all(len(names) == 1 or sum(gradients[name].size for name in names) <= most for names in messages)


@given(
    n_rows=st.integers(1, 60),
    n_ranks=st.integers(1, 5),
    batch_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_ranks_share_the_rows_of_a_step(
    n_rows: int, n_ranks: int, batch_size: int, accumulation: int, seed: int
) -> None:
    """Together they have each row of a step once; no microbatch is larger than one device's, and none is empty."""

    def steps() -> list[list[list[int]]]:
        n_steps = -(-n_rows // (batch_size * n_ranks * accumulation))
        whole = batch_size * n_ranks
        return list(step_batches(n_rows, whole, accumulation=accumulation, seed=seed, shuffle=True, n_steps=n_steps))

    shares = [list(share_steps(steps(), rank, n_ranks, batch_size)) for rank in range(n_ranks)]
    for number, whole in enumerate(steps()):
        own = [share[number] for share in shares]
        together = sorted(row for batches in own for batch in batches for row in batch)
        assert together == sorted(row for batch in whole for row in batch)
        assert all(1 <= len(batch) <= batch_size for batches in own for batch in batches)
        assert all(len(batches) <= accumulation for batches in own)
    assert max(len(share) for share in shares) == min(len(share) for share in shares)


@given(st.integers(1, 9), st.integers(2, 4), st.integers(1, 3))
def test_ranks_may_have_as_many_microbatches(n_rows: int, n_ranks: int, batch_size: int) -> None:
    """Some of them empty; the rows are the same."""
    steps = [[list(range(n_rows)), [n_rows]]]
    plain = [next(share_steps(steps, rank, n_ranks, batch_size)) for rank in range(n_ranks)]
    even = [next(share_steps(steps, rank, n_ranks, batch_size, is_even=True)) for rank in range(n_ranks)]

    assert {len(batches) for batches in even} == {max(map(len, plain))}
    assert [[batch for batch in batches if batch] for batches in even] == plain


def test_a_run_goes_on_with_other_ranks() -> None:
    """Fewer ranks than the steps were planned for divide their shares into more microbatches."""
    steps = [[[0, 1, 2, 3, 4, 5, 6, 7]]]

    assert list(share_steps(steps, 0, 1, 4)) == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    assert list(share_steps(steps, 1, 3, 4)) == [[[1, 4, 7]]]


@given(st.integers(2, 4), st.integers(0, 99))
def test_most_rows_stay_with_their_rank(n_ranks: int, seed: int) -> None:
    """From one epoch to the next, whose order is another one."""
    homes: list[dict[int, int]] = [{}, {}]
    for epoch, home in enumerate(homes):
        for rank in range(n_ranks):
            steps = step_batches(64 * n_ranks, 16 * n_ranks, accumulation=1, seed=seed + epoch, shuffle=True, n_steps=4)
            home |= {row: rank for batches in share_steps(steps, rank, n_ranks, 16) for rows in batches for row in rows}

    assert len(homes[0]) == 64 * n_ranks
    assert sum(homes[1][row] == rank for row, rank in homes[0].items()) > 0.6 * len(homes[0])


@pytest.mark.slow
def test_a_loop_on_two_ranks_equals_one(tmp_path: Path) -> None:
    """Losses and weights of a loop of one's own, whose last batch leaves a rank without a row."""
    command = [sys.executable, "-m", "tests.train.own_loop_on_ranks"]
    found = {}
    for n_ranks in (1, 2):
        folder = tmp_path / str(n_ranks)
        folder.mkdir()
        environments = make_environments("cpu", n_ranks, tmp_path) if n_ranks > 1 else [{}]
        said: list[str] = []
        assert launch([*command, str(folder)], environments, said.append) == 0, said
        found[n_ranks] = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(n_ranks)]
    states = [read_arrays(tmp_path / str(n_ranks) / "state.safetensors") for n_ranks in (1, 2)]

    assert found[2][0]["losses"] == found[2][1]["losses"] == pytest.approx(found[1][0]["losses"], rel=1e-5)
    assert [rank["others"] for rank in found[2]] == [[[1] * 1000], [[0] * 1000]]
    assert [rank["sum"] for rank in found[2]] == [[2.0**26 + 1, 1.0]] * 2
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert mx.allclose(value, states[1][name], rtol=1e-4, atol=1e-5), name


@pytest.mark.slow
def test_a_rank_may_be_late(tmp_path: Path) -> None:
    """Later than MLX's own attempts to find it last."""
    script = (
        "import os, time, vlora; late = os.environ['MLX_RANK'] == '0'; time.sleep(25 * late); "
        "assert vlora.open_ranks().sum(1.0) == (2.0,)"
    )
    said: list[str] = []

    assert launch([sys.executable, "-c", script], make_environments("cpu", 2, tmp_path), said.append) == 0, said
