"""A batch that does not fit is refused before its step runs, on a CPU; what fits is not planned."""

import pytest

from tests.runs import run
from vlora import TrainLoop
from vlora.errors import OutOfMemoryError
from vlora.estimate import foresight
from vlora.memory.limits import device_kind
from vlora.recipe.schema import Recipe


@pytest.mark.skipif(device_kind() != "cpu", reason="elsewhere MLX says so itself")
def test_a_cpu_is_not_asked_for_what_it_does_not_have(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that needs more than the process may have is refused before it runs: MLX would crash on it."""
    monkeypatch.setattr(foresight, "process_memory", lambda: 10**6)
    monkeypatch.setattr(TrainLoop, "_describe", lambda *_: pytest.fail("the step was begun"))
    with pytest.raises(OutOfMemoryError, match=r"a step: out of memory .*\(it would take .* may have 0\.001 GB"):
        run(recipe)


def test_what_fits_by_far_is_not_planned(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of usual sizes pay nothing for it."""
    monkeypatch.setattr(foresight, "_refuse_too_large", lambda *_: pytest.fail("a step was planned"))
    assert run(recipe)
