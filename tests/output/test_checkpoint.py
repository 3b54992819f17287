"""Training states: whole at every moment, two of them, and known by their checksums."""

import os
from collections.abc import Callable
from pathlib import Path

import attrs
import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.run.test_bad_rows import write_rows
from tests.runs import losses, make_recipe, run
from vlora.errors import CheckpointError
from vlora.events import Saved, Warned
from vlora.output import checksums
from vlora.output.atomic import write_whole
from vlora.output.checkpoint import (
    RunMetadata,
    before,
    find_state,
    has_state,
    load_metadata,
    load_state,
    save_state,
    settle_state,
)
from vlora.output.paths import STATE_NAME
from vlora.types import TrainState

CheckpointFactory = Callable[[str], Path]
METADATA = RunMetadata(recipe='[data]\npath = "é"\nchecksum = "checksum": "0000"\n', n_rows=3)


class KilledError(BaseException):
    """Ends a process at a certain call, as far as a test can."""


def make_state(step: int, n_values: int = 40) -> TrainState:
    """Make a small state whose every value is the step's number."""
    return TrainState({"a": mx.full((n_values,), step)}, {"step": mx.array(step)}, mx.array(step))


def step_of(path: Path) -> int:
    """Read which step a state is of, and see that it is all of that step."""
    found = load_state(path, make_state(0))
    assert bool((found.params["a"] == found.step).all())
    return int(found.step)


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    """The newest under its own name, and the one before it."""
    path = tmp_path / "training" / "state.safetensors"
    assert not has_state(path)
    for step in (1, 2, 3):
        save_state(path, make_state(step), METADATA)
    assert (step_of(path), step_of(before(path))) == (3, 2)
    assert find_state(path).path == path
    assert find_state(path).metadata == METADATA
    assert {file.name for file in path.parent.iterdir()} == {path.name, before(path).name}


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_found(where: float, bit: int, tmp_path: Path) -> None:
    """Whichever bit of the newest state has changed, the file is named and the one before it is taken."""
    path = tmp_path / "state.safetensors"
    for step in (1, 2):
        save_state(path, make_state(step), METADATA)
    raw = bytearray(path.read_bytes())
    raw[int(where * len(raw))] ^= 1 << bit
    path.write_bytes(raw)
    found = find_state(path)
    assert found.path == before(path)
    assert found.metadata == METADATA
    assert str(found.damaged).startswith(f"{path}: cannot be read (")
    with pytest.raises(CheckpointError):
        load_state(path, make_state(0))

    settle_state(found, path)
    assert step_of(path) == 1
    assert not before(path).exists()


@pytest.mark.parametrize("n_bytes", [0, 5, 100, -1])
def test_what_is_cut_off_is_found(n_bytes: int, tmp_path: Path) -> None:
    """A state that ends too early is damaged, wherever it ends; where none is whole both are named."""
    path = tmp_path / "state.safetensors"
    for step in (1, 2):
        save_state(path, make_state(step))
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert find_state(path).path == before(path)
    before(path).write_bytes(before(path).read_bytes()[:n_bytes])
    with pytest.raises(CheckpointError, match=r"(?s)/state\.safetensors: cannot .*/state-before\.safetensors: cannot "):
        find_state(path)


def test_states_without_a_checksum_are_read(tmp_path: Path) -> None:
    """As older ones are; half of one is damaged all the same."""
    path = tmp_path / "state.safetensors"
    state = make_state(3)
    arrays = {"params.a": state.params["a"], "opt_state.step": state.step, "step": state.step}
    mx.save_safetensors(str(path), arrays, metadata=METADATA.dump())
    assert load_metadata(path) == METADATA
    assert step_of(path) == 3
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cannot be read"):
        find_state(path)


NEWER = {"base", "numbered", "choice", "commits", "ranks", "sources"}
"""Fields that older states say nothing of."""

OLDER = {
    "recipe": "[train]\nseed = 3\n",
    "n_rows": "5",
    "template": "0123456789abcdef",
    "rules": '{"dropout_keys": 1}',
    "reports": '{"n_lines": 2}',
    "sums": "[1.5, 3.0]",
    "learned": "120",
    "progress": '{"epoch": 1, "n_read": 2, "waiting": [3]}',
    "cuts": '{"n_rows": 1, "n_losing": 0, "n_lost": 0, "first": "a", "is_losing": false}',
}
"""What 0.1 writes of a run into its states, under its own keys."""


def test_what_older_states_say_is_read(tmp_path: Path) -> None:
    """Every key of theirs has a field, the same keys are written, and a state of another loop says nothing."""
    path = tmp_path / "state.safetensors"
    mx.save_safetensors(str(path), {"step": mx.array(1)}, metadata={**OLDER, "own": "a user's"})
    found = load_metadata(path)

    assert found.dump() == OLDER
    assert (found.n_rows, found.sums, found.learned) == (5, (1.5, 3.0), 120)
    assert (found.metrics, found.position) == (OLDER["reports"], OLDER["progress"])
    nothing = attrs.asdict(RunMetadata())
    assert {name for name, value in attrs.asdict(found).items() if value == nothing[name]} == NEWER
    assert RunMetadata().dump() == {}


@pytest.mark.parametrize(("key", "text"), [("n_rows", "many"), ("sums", "[1]"), ("sums", "{"), ("learned", "")])
def test_metadata_that_is_not_understood(key: str, text: str, tmp_path: Path) -> None:
    """What is no number is an error that names the file; nothing where a number was means that there was none."""
    path = tmp_path / "state.safetensors"
    mx.save_safetensors(str(path), {"step": mx.array(1)}, metadata={**OLDER, key: text})
    if not text:
        assert load_metadata(path).learned == 0
        return
    with pytest.raises(CheckpointError, match=r"state\.safetensors: what it says of its run is not understood"):
        load_metadata(path)


def test_long_states_are_summed_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksum of a file of many blocks covers each of them, and their order."""
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 100)
    path = tmp_path / "state.safetensors"
    save_state(path, TrainState({"a": mx.arange(100)}, {}, mx.array(1)))
    raw = path.read_bytes()
    assert not checksums.is_damaged(path)
    path.write_bytes(raw[:-200] + raw[-100:] + raw[-200:-100])
    assert checksums.is_damaged(path)


def test_a_file_that_was_written_in_part_is_not_sealed(tmp_path: Path) -> None:
    """A disk that is full without saying so leaves no state with a checksum that fits it."""
    path = tmp_path / "state.safetensors"
    mx.save_safetensors(str(path), {"a": mx.arange(100)}, metadata=checksums.SEAL)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OSError, match=r"only .* bytes of it were written") as caught:
        checksums.seal(path)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("n_saved", [1, 2, 3])
def test_a_kill_at_any_call_leaves_a_whole_state(n_saved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest that was saved or the one that was being saved is found, and the next one can be saved."""
    n_calls = 0
    killed_at: int | None = None

    def counting(call: Callable[..., object], *, is_late: bool) -> Callable[..., object]:
        def wrapped(*given: object, **named: object) -> object:
            nonlocal n_calls
            n_calls += 1
            if is_late and n_calls - 1 == killed_at:
                call(*given, **named)
            if n_calls - 1 == killed_at:
                raise KilledError
            return call(*given, **named)

        return wrapped

    for is_late in (False, True):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", counting(os.fsync, is_late=is_late))
            patched.setattr(Path, "replace", counting(Path.replace, is_late=is_late))
            patched.setattr(Path, "unlink", counting(Path.unlink, is_late=is_late))
            patched.setattr(mx, "save_safetensors", counting(mx.save_safetensors, is_late=is_late))
            patched.setattr(checksums, "seal", counting(checksums.seal, is_late=is_late))
            for moment in range(100):
                path = tmp_path / f"{is_late}-{moment}" / "state.safetensors"
                killed_at = None
                for step in range(n_saved):
                    save_state(path, make_state(step + 1))
                n_calls, killed_at = 0, moment
                try:
                    save_state(path, make_state(n_saved + 1))
                except KilledError:
                    pass
                else:
                    break
                killed_at = None
                found = find_state(path)
                assert step_of(found.path) in (n_saved, n_saved + 1)
                assert found.damaged is None
                settle_state(found, path)
                save_state(path, make_state(n_saved + 2))
                assert (step_of(path), step_of(before(path)) >= n_saved) == (n_saved + 2, True)
                assert not list(path.parent.glob(".partial*"))
            assert moment > 5


def test_files_are_on_the_disk_when_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before it has its name, and the folder afterwards."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        done.append(f"{path.name} to {target.name}")
        return replace(path, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_whole(tmp_path / "out" / "a", lambda partial: partial.touch())
    assert done == ["sync .partial-a", ".partial-a to a", "sync out"]


def test_a_run_goes_on_from_the_state_before_a_damaged_one(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """It says so, and ends to the bit as if it had never stopped."""
    rows, out = write_rows(tmp_path, "rows"), tmp_path / "out"
    options = {"lora__dropout": 0.2, "train__iters": 4, "train__steps_per_save": 1}
    straight = losses(run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "straight", **options)))
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, out, **options)
    calls = iter([False, False, True])
    run(recipe, should_stop=lambda: next(calls))
    state = out / STATE_NAME
    raw = state.read_bytes()
    state.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    events = run(recipe, resume=True)

    assert losses(events) == straight[2:]
    notes = [event.message for event in events if isinstance(event, Warned)]
    assert len(notes) == 1
    assert notes[0].startswith(f"{state}: cannot be read")
    assert notes[0].endswith("going on from the one before it, after step 2")
    assert [event.step for event in events if isinstance(event, Saved)] == [3, 4]
