"""The end-to-end benchmark: what it draws, what it reads off a run, and the command."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from PIL import Image

from benchmarks.run.__main__ import Measuring, main
from benchmarks.run.devices import compare_devices, find_distance, read_losses, show_devices, spread_programs
from benchmarks.run.figures import (
    Course,
    DeviceError,
    MeasureError,
    Trace,
    check_device,
    compare,
    measure_epochs,
    measure_run,
    read_metrics,
    show_table,
    sum_up,
)
from benchmarks.run.processes import ProgramError, make_environment, run
from benchmarks.run.programs import PROGRAMS, Job, Place, find_program, read_peer
from benchmarks.run.rows import KINDS, SET_NAMES, choose_sets, draw_rows, write_recipe, write_rows
from benchmarks.sides.counting import count_recipe, count_rows
from benchmarks.sides.on_device import measure as measure_steps
from benchmarks.sides.publishing import publish
from vlora import parse_recipe

ROOT = Path(__file__).parents[2]
NVIDIA, CPU = KINDS["nvidia"], KINDS["cpu"]
TEN = Course(rows=10, tokens=1000, batch=4)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", SET_NAMES)
def test_rows_are_what_is_promised(kind: Any, name: str) -> None:
    rows = kind.sets[name]
    drawn = draw_rows(rows, 0)

    assert drawn == draw_rows(rows, 0)
    assert drawn != draw_rows(rows, 1)
    assert len(drawn) == rows.rows
    least, most = rows.words
    assert all(least <= len(row.answer.split()) <= most for row in drawn)
    sizes = {row.size for row in drawn}
    if rows.sides is None:
        assert sizes == set(rows.sizes)
    else:
        assert len(sizes) == rows.rows
        assert all(rows.sides[0] <= side <= rows.sides[1] for size in sizes for side in size)


def test_rows_of_a_gpu() -> None:
    """As the README has them."""
    assert {name: rows.rows for name, rows in NVIDIA.sets.items()} == {
        "mixed": 960,
        "one": 960,
        "all": 960,
        "long": 240,
        "pairs": 240,
        "even": 1920,
    }
    assert set(NVIDIA.sets["mixed"].sizes) == {(512, 512), (640, 384), (480, 512), (384, 640), (576, 448)}
    assert NVIDIA.sets["all"].sides == (224, 1024)
    assert NVIDIA.sets["mixed"].words == (12, 40)
    assert all(rows.rows % (10 * rows.batch) == 0 for rows in NVIDIA.sets.values()), "epochs end with a report"


def test_as_many_sizes_as_there_are() -> None:
    three_by_three = attrs.evolve(CPU.sets["all"], sides=(5, 7), rows=9)
    assert len({row.size for row in draw_rows(three_by_three, 0)}) == 9
    with pytest.raises(ValueError, match=r"--rows: found 10, but sides of 5 to 7"):
        draw_rows(attrs.evolve(three_by_three, rows=10), 0)


def test_choosing() -> None:
    (chosen,) = choose_sets(CPU, ["one"], 12, None)
    assert (chosen.name, chosen.rows, chosen.batch) == ("one", 12, CPU.sets["one"].batch)
    with pytest.raises(ValueError, match=r"--sets: found 'none', expected some of mixed, one, all, long, pairs, even"):
        choose_sets(CPU, ["one", "none"], None, None)


def test_written_rows(tmp_path: Path) -> None:
    """JPEGs of the drawn sizes, the same in another folder; kept while the same is asked for, and no longer."""
    rows = attrs.evolve(CPU.sets["all"], rows=4)
    path = write_rows(rows, 3, tmp_path / "a")
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    for line, row in zip(lines, draw_rows(rows, 3), strict=True):
        with Image.open(path.parent / line["image"]) as image:
            assert (image.format, image.size) == ("JPEG", row.size)
        assert line["answer"] == row.answer
    again = write_rows(rows, 3, tmp_path / "b")
    assert path.read_bytes() == again.read_bytes()
    assert [(path.parent / line["image"]).read_bytes() for line in lines] == [
        (again.parent / line["image"]).read_bytes() for line in lines
    ]
    before = path.stat().st_mtime_ns
    assert write_rows(rows, 3, tmp_path / "a").stat().st_mtime_ns == before
    assert write_rows(rows, 4, tmp_path / "a").read_text() != again.read_text()


def metrics(device: str = "cpu") -> str:
    """Two epochs of `TEN`: step 1 after 2 s, the first epoch's end 1 s later, the second's 0.5 s after that."""
    lines: list[dict[str, Any]] = [
        {"step": 0, "device": device, "device_name": "X", "unix_time": 101.0},
        {"step": 0, "valid_loss": 3.0, "unix_time": 101.5},
        {"step": 3, "learning_rate": 1e-4, "peak_memory_gb": 1.0, "unix_time": 103.0, "first_step_unix_time": 102.0},
        {"step": 3, "valid_loss": 2.0, "unix_time": 103.1},
        {"step": 6, "learning_rate": 1e-4, "peak_memory_gb": 1.5, "unix_time": 103.5},
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_epochs_of_a_run() -> None:
    """The first counts from the end of step 1, the second from the end of the first, whatever was done between."""
    trace = read_metrics(metrics())
    assert trace == Trace(marks=((1, 102.0), (3, 103.0), (6, 103.5)), device="cpu", device_name="X", peak_device_gb=1.5)

    first, second = measure_epochs(trace, TEN)
    assert first == {"steps": 2, "rows": 6, "seconds": 1.0, "step_s": 0.5, "rows_per_s": 6.0, "tokens_per_s": 600.0}
    assert second.pop("step_s") == pytest.approx(0.5 / 3)
    assert second == {"steps": 3, "rows": 10, "seconds": 0.5, "rows_per_s": 20.0, "tokens_per_s": 2000.0}
    figures = measure_run(trace, TEN, spawned=100.0, total_s=5.0, peak_host=2 * 10**9)
    assert (figures["first_step_s"], figures["epoch2_rows"], figures["peak_host_gb"]) == (2.0, 10, 2.0)
    assert not any(key.startswith("epoch") for key in measure_run(trace, None, spawned=0, total_s=0, peak_host=0))


def test_metrics_without_a_first_step() -> None:
    start, *_ = metrics().splitlines()
    with pytest.raises(MeasureError, match="ended before its first report"):
        read_metrics(start)


def test_cut_runs() -> None:
    """A peer that was cut counts up to its last step; without an epoch's end there is no second one."""
    marks = tuple((step, float(step)) for step in range(1, 6))
    first, second = measure_epochs(Trace(marks=marks), TEN)
    assert (first["rows"], first["seconds"]) == (6, 2.0)
    assert (second["steps"], second["rows"]) == (2, 8)
    (only,) = measure_epochs(Trace(marks=marks[:2]), TEN)
    assert (only["steps"], only["rows"]) == (1, 4)
    assert measure_epochs(Trace(marks=marks[:1]), TEN) == []
    assert len(measure_epochs(Trace(marks=((1, 1.0), (2, 2.0), (5, 5.0))), TEN)) == 1


@pytest.mark.parametrize(("rows", "every"), [(960, 10), (96, 6), (16 * 7, 7), (16 * 11, 1), (1, 1)])
def test_epochs_end_with_a_report(rows: int, every: int) -> None:
    course = Course(rows=rows, tokens=0, batch=16)
    assert course.report_every == every
    assert course.steps % every == 0


def test_peer_reports() -> None:
    """Times are those at which the lines came."""
    lines = [
        "Loading",
        "Training (iteration 1):",
        "peak_memory=1.5, x=2",
        "Training (iteration 2):",
        "peak_memory=3e-1",
    ]
    trace = read_peer(list(enumerate(lines)))
    assert trace == Trace(marks=((1, 1), (2, 3)), peak_device_gb=1.5)
    with pytest.raises(MeasureError, match="another form of reports"):
        read_peer([(0.0, "Loading")])


def test_another_device_is_refused() -> None:
    trace = read_metrics(metrics("cpu"))
    with pytest.raises(DeviceError, match=r"vlora on mixed: computed on 'cpu' \(X\), but --kind asks for 'cuda'"):
        check_device("vlora on mixed", trace, NVIDIA.device)
    check_device("vlora on mixed", trace, CPU.device)
    check_device("vlora on mixed", trace, None)


def test_another_device_ends_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that fell back to the CPU: exit status 1, a sentence, and nothing is measured after it."""
    job = Job(name="mixed", recipe=tmp_path / "r.toml", caches="x", course=TEN)
    started: list[Path] = []

    def pretend(_: Job, folder: Path, __: int) -> list[str]:
        started.append(folder)
        (folder / "output").mkdir()
        (folder / "output" / "metrics.jsonl").write_text(metrics("cpu").splitlines()[0] + "\n{half a li")
        return [sys.executable, "-c", "import time; time.sleep(600)"]

    def jobs(*_: Any) -> Iterator[Job]:
        yield job

    monkeypatch.setitem(PROGRAMS, "vlora", attrs.evolve(PROGRAMS["vlora"], command=pretend))
    monkeypatch.setattr("benchmarks.run.__main__.make_jobs", jobs)
    file, began = tmp_path / "found.json", time.monotonic()
    status = main(["--kind", "nvidia", "--folder", str(tmp_path), "--programs", "vlora", "--write", str(file)])

    assert status == 1
    assert len(started) == 1
    assert time.monotonic() < began + 300, "ended while it ran"
    said = capsys.readouterr()
    assert "computed on 'cpu'" in said.err
    assert json.loads(said.out.splitlines()[-1])["failed"] == json.loads(file.read_text())["failed"]


def test_turns(tmp_path: Path) -> None:
    """Kernel caches are emptied for the first rows only; new rows are run once before they count as warm."""
    place = Place(folder=tmp_path, caches_folder=tmp_path, device=None, limit_s=1, own_caches=False)
    first, second = (Job(name=name, recipe=tmp_path, caches="same", course=TEN) for name in ("a", "b"))
    measuring = Measuring(place=place, programs={name: PROGRAMS[name] for name in ("vlora", "trl")}, cold=1, repeat=2)
    warm = [("warm", number, name) for number in (0, 1) for name in ("vlora", "trl")]
    assert measuring._plan(first) == [("cold", 0, "vlora"), ("cold", 0, "trl"), *warm]
    assert measuring._plan(second) == [("new rows", 0, "vlora"), *warm]
    assert attrs.evolve(measuring, cold=0)._plan(attrs.evolve(first, caches="other")) == warm


def test_medians_ratios_and_the_table() -> None:
    ours = [
        {"first_step_s": 3.0 + number, "epoch1_tokens_per_s": 100.0 * number, "device": "cpu"} for number in (1, 2, 6)
    ]
    ours = [{**run, "epoch2_tokens_per_s": 300.0, "peak_device_gb": None} for run in ours]
    warm = sum_up(ours)
    assert (warm["runs"], warm["first_step_s"], warm["first_step_s_least"], warm["first_step_s_most"]) == (3, 5, 4, 9)
    assert "peak_device_gb" not in warm
    programs = {
        "vlora warm": warm,
        "on the device": {"epoch1_tokens_per_s": 250.0, "epoch2_tokens_per_s": 330.0},
        "mlx-vlm warm": sum_up([{"epoch1_tokens_per_s": 50.0}]),
        "trl": {"skipped": "torch is not installed"},
    }
    ratios = compare(programs)
    assert ratios == {
        "epoch 1, tokens/s over mlx-vlm's": 4.0,
        "epoch 1, time over that of its batches on the device": 1.25,
        "epoch 2, tokens/s over mlx-vlm's": 6.0,
        "epoch 2, time over that of its batches on the device": 1.1,
    }
    lines = show_table("mixed: 10 rows", programs, ratios)
    assert any(line.startswith("| vlora warm | 5.0 (4.0 to 9.0) |  | 200 (100 to 600) |") for line in lines)
    assert "| trl | skipped: torch is not installed |" in lines
    assert "epoch 1, tokens/s over mlx-vlm's: 4.00" in lines


def test_several_devices(tmp_path: Path) -> None:
    """Each has a batch of its own; the ratio is to one device, and what each did is read off the last line with it."""
    names = spread_programs(["vlora", "trl"], [1, 2])
    assert names == ["vlora", "vlora-2", "trl"]
    job = Job(name="a", recipe=tmp_path / "r.toml", caches="x", course=TEN)
    alone, both = (find_program(name).command(job, tmp_path, 0) for name in ("vlora", "vlora-2"))
    assert "--devices" not in alone
    assert "train.steps_per_report=3" in alone
    assert both[both.index("--devices") + 1] == "2"
    assert "train.steps_per_report=2" in both, "an epoch of ten rows has two steps of eight"

    started = {"device": "cpu", "device_name": "a", "step": 0, "unix_time": 1.0}
    report = {"step": 2, "learning_rate": 1e-4, "peak_memory_gb": 1.0, "unix_time": 3.0, "first_step_unix_time": 2.0}
    shares = {f"device{rank}/{what}": rank + 3 for rank in (0, 1) for what in ("rows", "features_computed")}
    lines = (started, report, {**report, **shares, "step": 4, "unix_time": 5.0})
    trace = read_metrics("\n".join(map(json.dumps, lines)))
    assert trace.shares == {"rows learned": [3, 4], "features of images computed": [3, 4]}
    figures = measure_run(trace, TEN.on(2), spawned=0.0, total_s=6.0, peak_host=1)
    assert (figures["epoch1_rows"], figures["epoch1_step_s"], figures["epoch2_rows"]) == (2, 1.0, 10)

    found = {"vlora warm": {"epoch1_tokens_per_s": 100.0}, "vlora-2 warm": {"epoch1_tokens_per_s": 190.0}}
    assert compare_devices(found) == {"epoch 1, tokens/s of 2 devices over one": 1.9}
    assert compare_devices({"trl warm": {}, "vlora cold": {}, **found, "vlora warm": {}}) == {}
    distance = find_distance([1.0, 2.0], [1.0, 2.002])
    assert show_devices(2, trace.shares, distance)[1:] == [
        "2 devices, features of images computed: 3 + 4 = 7",
        "2 devices, the first 5 losses: within 1.0e-03 of those of one device with 2 batches a step",
    ]


def test_losses_of_every_step(tmp_path: Path) -> None:
    """A run that ended early is none to compare with."""
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step, "loss": step / 2}) + "\n" for step in range(1, 6)))
    assert read_losses(file) == [0.5, 1.0, 1.5, 2.0, 2.5]
    file.write_text(json.dumps({"step": 1, "loss": 0.5}) + "\n")
    with pytest.raises(MeasureError, match="found 1 losses, expected 5"):
        read_losses(file)


def test_full_fine_tuning(tmp_path: Path) -> None:
    """Layers are recomputed, as the README says; no peer is measured."""
    values = {"rank": 16, "alpha": 32.0, "learning_rate": 1e-4, "batch": 2, "epochs": 2, "max_seq_length": 64}
    recipe = parse_recipe(write_recipe(tmp_path / "r.toml", model="m", rows="r", full=True, **values).read_text())
    assert (recipe.model.full_finetune, recipe.train.grad_checkpoint) == (True, True)
    with pytest.raises(SystemExit):
        main(["--kind", "cpu", "--full", "--programs", "trl"])


def test_processes(tmp_path: Path) -> None:
    """Lines come with their times, memory is the process's own; what fails or takes too long says so."""
    environment = make_environment(tmp_path / "caches", tmp_path / "run")
    script = "import time; print('one', flush=True); held = b'x' * 3 * 10**8; time.sleep(.8); print('two')"
    ended = run([sys.executable, "-c", script], tmp_path, environment, 60)
    (at, one), (later, two) = ended.lines
    assert (one, two) == ("one", "two")
    assert ended.spawned < at < later - 0.1 < ended.spawned + ended.total_s
    # Linux counts what this process had when it started the other one.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 3e8 < ended.peak_host < max(1e9, 1.1 * own)
    with pytest.raises(ProgramError, match="ended with 3: no such thing"):
        run(
            [sys.executable, "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"], tmp_path, {}, 60
        )
    with pytest.raises(ProgramError, match=r"did not end within 0.2 s \(--limit\)"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, {}, 0.2)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_what_is_told_to_end_takes_along_what_it_started(tmp_path: Path) -> None:
    """SIGTERM, as `timeout` sends it: the program that is measured ends too, though its session is another one."""
    place = tmp_path / "id"
    program = f"import os, pathlib, time; pathlib.Path({str(place)!r}).write_text(f'{{os.getpid()}}.'); time.sleep(60)"
    script = f"""
import pathlib, sys
from benchmarks.ending import end_in_order
from benchmarks.run.processes import run
end_in_order()
run([sys.executable, "-c", {program!r}], pathlib.Path({str(tmp_path)!r}), {{}}, 60)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as process:
        while not (place.is_file() and place.read_text().endswith(".")):
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()

    assert process.returncode == 128 + signal.SIGTERM
    number = int(place.read_text()[:-1])
    deadline = time.monotonic() + 100
    # Until what adopted it has taken note of its end.
    while is_there(number) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_there(number)


def is_there(number: int) -> bool:
    """Whether a process has not ended."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a program compiles or prepares is found by a run that is to be cold."""
    monkeypatch.setenv("MLX_PTX_CACHE_DIR", "/elsewhere")
    cold = make_environment(tmp_path / "caches", tmp_path / "run")
    assert "MLX_PTX_CACHE_DIR" not in cold
    for name in ("XDG_CACHE_HOME", "TMPDIR", "CUDA_CACHE_PATH"):
        assert Path(cold[name]).is_relative_to(tmp_path / "caches")
        assert Path(cold[name]).is_dir()
    own = make_environment(None, tmp_path / "run")
    assert own["MLX_PTX_CACHE_DIR"] == "/elsewhere"
    assert all(Path(found["HF_HOME"]).is_relative_to(tmp_path / "run") for found in (cold, own))


def test_peer_commands(tmp_path: Path) -> None:
    """Both peers are given the model, the rows and the batch, and end after the steps asked for."""
    job = Job(
        name="a", recipe=tmp_path / "r", caches="x", course=TEN, model=tmp_path / "m", rows=tmp_path / "rows.jsonl"
    )
    for name in ("mlx-vlm", "trl"):
        command = " ".join(PROGRAMS[name].command(job, tmp_path, 7))
        assert all(part in command for part in (str(job.model), str(job.rows), " 7", " 4"))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Give a model, rows and a recipe as the benchmark makes them, few and small."""
    folder = tmp_path_factory.mktemp("case")
    rows = attrs.evolve(CPU.sets["mixed"], rows=6, batch=2)
    model = publish(CPU.shape, CPU.dtype, CPU.least_pixels, folder / "model")
    path = write_rows(rows, 0, folder / "rows")
    values = {"rank": 16, "alpha": 32.0, "learning_rate": 1e-4, "batch": 2, "epochs": 2, "max_seq_length": 2048}
    return model, path, write_recipe(folder / "r.toml", model=str(model), rows=str(path), **values)


def test_tokens_are_counted_alike(case: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The model's own processor and vlora's encoder find the same tokens: nothing is cut."""
    model, rows, recipe = case
    found, encoded = count_rows(model, rows), count_recipe(recipe, tmp_path)
    assert found["rows"] == encoded["rows"] == 6
    assert found["tokens"] == encoded["tokens"] > 6 * 12
    assert encoded["batch"] == 2


@pytest.mark.parametrize(("kind", "n_tokens"), [(NVIDIA, 513), (CPU, 62)], ids=["nvidia", "cpu"])
def test_even_rows_have_the_same_number_of_tokens(
    case: tuple[Path, Path, Path], tmp_path: Path, kind: Any, n_tokens: int
) -> None:
    """As the README has it; they differ in their answers all the same."""
    model, _, _ = case
    rows = attrs.evolve(kind.sets["even"], rows=3)
    path = write_rows(rows, 0, tmp_path)
    lines = path.read_text().splitlines()
    assert len({json.loads(line)["answer"] for line in lines}) == 3
    for line in lines:
        (path.parent / "one.jsonl").write_text(line)
        assert count_rows(model, path.parent / "one.jsonl") == {"rows": 1, "tokens": n_tokens}


def test_steps_on_the_device(case: tuple[Path, Path, Path]) -> None:
    """Both epochs take every row, and the tokens that the processor counts."""
    model, rows, recipe = case
    found = measure_steps(parse_recipe(recipe.read_text()))
    tokens = count_rows(model, rows)["tokens"]
    for epoch in ("epoch1", "epoch2"):
        assert found[f"{epoch}_steps"] == 3
        assert round(found[f"{epoch}_rows_per_s"] * found[f"{epoch}_seconds"]) == 6
        assert round(found[f"{epoch}_tokens_per_s"] * found[f"{epoch}_seconds"]) == tokens
    with pytest.raises(ValueError, match="'packed'"):
        measure_steps(parse_recipe(recipe.read_text(), {"train.batching": "packed"}))


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """Real processes: every program's figures, the steps beside them, and the last line holds all of it."""
    options = ["--kind", "cpu", "--sets", "one", "--rows", "8", "--peer-steps", "2", "--cold", "0"]
    file = tmp_path / "found" / "file.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *options, "--write", str(file), "--folder", str(tmp_path / "kept")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last == json.loads(file.read_text())
    result = last["results"]["one"]
    assert (result["course"]["rows"], result["course"]["batch"]) == (8, 4)
    ours, steps, peer = (result["figures"][name] for name in ("vlora warm", "on the device", "mlx-vlm warm"))
    assert [ours[f"epoch{number}_rows"] for number in (1, 2)] == [4, 8]
    assert ours["first_step_s"] < ours["first_step_s"] + ours["epoch1_seconds"] < ours["total_s"]
    assert all(steps[f"epoch{number}_tokens_per_s"] > 0 for number in (1, 2))
    assert (peer["epoch1_rows"], peer["peak_host_gb"] > 0.05) == (4, True)
    assert {"skipped", "epoch1_tokens_per_s"} & {*result["figures"].get("trl", result["figures"].get("trl warm", {}))}
    assert len(result["ratios"]) >= 4
    (run_folder,) = (tmp_path / "kept" / "runs").glob("one-vlora-warm-*")
    assert (run_folder / "output" / "adapters.safetensors").is_file()
    assert not (run_folder / "features").exists()
