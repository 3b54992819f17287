"""Runs that are left early: no thread, lock or file of theirs is left, and the interpreter ends in order."""

import contextlib
import gc
import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.training import picture
from vlora import Recipe, fit, parse_recipe
from vlora.cli.main import main
from vlora.events import Event, StepReport
from vlora.output.checkpoint import load_metadata
from vlora.output.lock import LOCK_NAME, exclusive_run_lock
from vlora.output.paths import output_paths
from vlora.system import endings
from vlora.system.leaving import heed
from vlora.system.signals import stop_on_signals

N_ROWS = 24
LIMIT_S = 600
CheckpointFactory = Callable[[str], Path]

HEAD = """
import atexit, gc, os, sys, threading

# Registered before vlora's own, and so called after it; MLX is still there.
def tell() -> None:
    # Progress bars have a thread of their own.
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    left = [name for name in others if not name.startswith("tqdm")]
    held = run is not None and run.gi_frame is not None
    print("at exit:", left, held, os.path.exists(sys.argv[2]), flush=True)

atexit.register(tell)
run = None
import vlora
from vlora.events import StepReport

recipe = vlora.parse_recipe(open(sys.argv[1]).read())
"""
ENDS = {
    "kept": (
        """
run = vlora.fit(recipe)
for event in run:
    if isinstance(event, StepReport):
        break
""",
        0,
    ),
    "an error": (
        """
run = vlora.fit(recipe)
for event in run:
    if isinstance(event, StepReport):
        raise KeyError("the consumer's own")
""",
        1,
    ),
    "a thread's": (
        """
def consume() -> None:
    global run
    run = vlora.fit(recipe)
    for event in run:
        if isinstance(event, StepReport):
            break
thread = threading.Thread(target=consume)
thread.start()
thread.join()
""",
        0,
    ),
}


@pytest.fixture
def recipe_file(checkpoint: CheckpointFactory, tmp_path: Path) -> Path:
    """Write a recipe of a hundred steps, and its rows."""
    lines = []
    for number in range(N_ROWS):
        picture(32 + 16 * (number % 2), 32, number).save(tmp_path / f"{number}.png")
        row = {"question": f"What is {number}?", "answer": f"it is {number}", "image": f"{number}.png"}
        lines.append(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    file = tmp_path / "recipe.toml"
    file.write_text(
        f"""
[model]
path = "{checkpoint("qwen3_vl")}"
[data]
path = "{tmp_path / "rows.jsonl"}"
[train]
batch_size = 2
iters = 100
steps_per_save = 2
[output]
path = "{tmp_path / "out" / "a.safetensors"}"
"""
    )
    return file


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    """Read it."""
    return parse_recipe(recipe_file.read_text())


def own_threads() -> list[str]:
    """List the threads that a run has begun."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vlora")]


def open_files(folder: Path) -> list[str]:
    """List the files in a folder that this process holds open."""
    found = []
    for handle in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").is_dir() else ():
        try:
            target = handle.readlink()
        except OSError:
            continue
        if target.is_relative_to(folder):
            found.append(str(target))
    return found


def take_a_step(run: Iterator[Event]) -> None:
    """Take events until a step is reported."""
    for event in run:
        if isinstance(event, StepReport):
            return


@pytest.mark.parametrize(
    "case", [case if case == "kept" else pytest.param(case, marks=pytest.mark.slow) for case in ENDS]
)
def test_the_interpreter_ends_in_order(case: str, recipe_file: Path, tmp_path: Path) -> None:
    """However a run is left: before Python's own teardown it is closed, with threads and lock; the status is its."""
    program, status = ENDS[case]
    lock = tmp_path / "out" / LOCK_NAME
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program, str(recipe_file), str(lock)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )

    assert done.returncode == status, done.stderr
    assert "at exit: [] False False" in done.stdout
    assert "Exception ignored" not in done.stderr
    assert "Fatal" not in done.stderr


THREADS = """
import importlib.util, sys, threading
import mlx.core as mx

spec = importlib.util.spec_from_file_location("endings", sys.argv[1])
endings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(endings)

def work() -> None:
    if sys.argv[2] == "watched":
        endings.watch_thread()
    # The state of random numbers is a Python object in a C++ variable of each thread.
    mx.eval(mx.random.normal((4,)))

for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


@pytest.mark.skipif(not endings.TASKS.is_dir(), reason="threads are listed on Linux")
def test_threads_of_mlx_are_gone_before_the_interpreter() -> None:
    """Python's `join` may return before their C++ destructors have run; without the wait most such processes abort."""
    command = [sys.executable, "-c", THREADS, endings.__file__, "watched"]

    assert [subprocess.run(command, check=False, capture_output=True).returncode for _ in range(10)] == [0] * 10


def test_who_is_watched() -> None:
    """Threads that work ahead and those that take a run, as long as they are there; not the main thread."""
    ids: list[int] = []

    def work(watch: Callable[[], None]) -> None:
        watch()
        ids.append(threading.get_native_id())

    for watch in (endings.watch_thread, lambda: heed(threading.Event())):
        thread = threading.Thread(target=work, args=(watch,))
        thread.start()
        thread.join()
        assert ids[-1] in endings._WATCHED
    endings.watch_thread()
    endings._await_threads()

    assert threading.main_thread().native_id not in endings._WATCHED
    assert not [native_id for native_id in ids if endings._exists(native_id)]


@contextlib.contextmanager
def saving_command(recipe_file: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start the command, for longer than anybody waits, and give it when it has saved a step."""
    # What the tests themselves were started by may ignore it, as nohup does, and the command would inherit that.
    hang_up = getattr(signal, "SIGHUP", None)
    own = None if hang_up is None else signal.signal(hang_up, signal.SIG_DFL)
    with subprocess.Popen(
        [sys.executable, "-m", "vlora", str(recipe_file), "--set", "train.iters=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if hang_up is not None:
            signal.signal(hang_up, own)
        assert process.stdout is not None
        while not process.stdout.readline().startswith("saved"):
            assert process.poll() is None
        yield process


def test_a_second_interrupt(recipe_file: Path, tmp_path: Path) -> None:
    """Ctrl-C twice ends the command at once, with the status of an interruption and no lock left."""
    with saving_command(recipe_file) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        while not process.stdout.readline().startswith("stopping"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT_S)

    # It may have come behind the step's end, where there is nothing left to break off.
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "Exception ignored" not in errors
    with exclusive_run_lock(tmp_path / "out"):
        pass


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), pytest.param("SIGHUP", 129, marks=pytest.mark.slow)])
def test_a_signal_saves_what_was_learned(name: str, status: int, recipe_file: Path) -> None:
    """As the first Ctrl-C does: the step is finished, the state behind it is whole, and the status is the signal's."""
    with saving_command(recipe_file) as process:
        process.send_signal(getattr(signal, name))
        printed, errors = process.communicate(timeout=LIMIT_S)

    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    state = output_paths(parse_recipe(recipe_file.read_text())).state
    assert load_metadata(state).recipe
    if name == "SIGTERM":
        assert "--resume" in printed


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_who_ignores_the_terminals_end_means_it() -> None:
    """A run under nohup outlives its terminal; what was ignored otherwise is heard all the same, and put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        with stop_on_signals(lambda _: None, lambda: None) as signals:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signals.has_stepped = True
            signal.raise_signal(signal.SIGHUP)
            assert not signals.is_asked()
            signal.raise_signal(signal.SIGINT)
            assert (signals.is_asked(), signals.status) == (True, 130)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("is_error", [False, True], ids=["closed", "error"])
def test_another_run_may_begin(is_error: bool, recipe: Recipe, tmp_path: Path) -> None:
    """No thread, open file or lock of a run that is left remains; another one takes its folder and goes on."""
    run = fit(recipe)
    take_a_step(run)
    if is_error:
        # What was learned is saved first, as it is before an error of the run's own.
        assert isinstance(run.throw(KeyError("the consumer's own")), Event)
        with pytest.raises(KeyError):
            list(run)
    run.close()

    assert not own_threads()
    assert not open_files(tmp_path / "out")
    with contextlib.closing(fit(recipe)) as another:
        take_a_step(another)


def test_let_go_of(recipe: Recipe, tmp_path: Path) -> None:
    """A run in a cycle, which Python finds late and in whichever thread, ends likewise."""
    run = fit(recipe)
    take_a_step(run)
    holder: dict[str, Any] = {"run": run}
    holder["me"] = holder
    found = weakref.ref(run)
    gc.disable()
    try:
        del run, holder
        assert own_threads()
    finally:
        gc.enable()
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()

    assert found() is None
    assert not own_threads()
    with exclusive_run_lock(tmp_path / "out"):
        pass


def test_the_device_is_waited_for(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is left waits for what the device works on, while all that this reads is there still."""
    told: list[bool] = []
    monkeypatch.setattr(mx, "synchronize", lambda: told.append(bool(own_threads())))
    run = fit(recipe)
    take_a_step(run)
    assert not told
    run.close()

    assert told == [True]


def test_what_the_device_failed_with_is_not_told_twice(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a device that has failed does not hide why the run was left, nor keep its folder."""

    def fail() -> None:
        msg = "[METAL] Command buffer execution failed"
        raise RuntimeError(msg)

    monkeypatch.setattr(mx, "synchronize", fail)
    run = fit(recipe)
    take_a_step(run)
    run.close()

    assert not own_threads()


def test_one_that_is_over_is_forgotten(recipe: Recipe) -> None:
    """Nothing of a run is kept for the interpreter's end once it has been let go of."""
    found = weakref.ref(fit(recipe))

    assert found() is None


def test_the_command_in_a_thread(recipe_file: Path) -> None:
    """Where no signal can be listened to, the command line runs all the same."""
    found: list[int] = []
    arguments = [str(recipe_file), "--set", "train.iters=1"]
    thread = threading.Thread(target=lambda: found.append(main(arguments)))
    thread.start()
    thread.join()

    assert found == [0]
