"""`--devices N`: what is refused, and whole runs on several devices, which are processes of a CPU here."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.commands import complaint
from tests.training import picture
from vlora.memory import limits
from vlora.output.checkpoint import read_arrays

RECIPE = """
[model]
path = "builtin:tiny-qwen3-vl"
train_vision = true
full_finetune = true
[data]
path = "builtin:digits"
config = "digit"
split = "train[:75]"
valid_split = "test[:21]"
train_on_completions = true
[optim]
name = "sgd"
learning_rate = 1e-3
grad_clip = 1.0
[train]
gradient_accumulation_steps = 2
epochs = 2
steps_per_report = 1
steps_per_eval = 3
val_batches = -1
[eval]
answer_rows = 5
max_new_tokens = 3
[output]
report = false
path = "model"
"""


LORA = ("model.full_finetune=false", "model.train_vision=false")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose rows no number of devices divides."""
    path = tmp_path / "my.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("n_devices", "kind", "expected"),
    [
        ("0", "cpu", "--devices: found 0, must be at least 1"),
        ("x", "cpu", "invalid int value"),
        ("5000", "cpu", "found 5000, and processes of a CPU share its cores"),
        ("2", "metal", "a Mac has one GPU"),
        ("9", "cuda", "found 9, and there are"),
    ],
)
def test_refused(
    n_devices: str,
    kind: str,
    expected: str,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers that are none, and more devices than there are."""
    monkeypatch.setattr(limits, "device_kind", lambda: kind)

    assert expected in complaint([str(recipe), "--devices", n_devices], capsys)


def start(recipe: Path, output: Path, n_devices: int, *sets: str, resume: bool = False) -> "subprocess.Popen[bytes]":
    """Start a run."""
    given = itertools.chain.from_iterable(("--set", each) for each in (f"output.path={output}", *sets))
    command = [sys.executable, "-m", "vlora", str(recipe), "--devices", str(n_devices), *given]
    return subprocess.Popen(
        [*command, *(["--resume"] if resume else [])],
        cwd=recipe.parent,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )


def lines_of(output: Path, key: str) -> list[Any]:
    """Give a number of every line of metrics.jsonl that has it."""
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


def weights_of(output: Path) -> dict[str, Any]:
    """Read the trained weights."""
    return read_arrays(output / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["shuffled", "grouped", "packed"])
def test_devices_equal_one_with_larger_batches(batching: str, recipe: Path) -> None:
    """Losses, counts, answers and weights; the last step of an epoch is a short one."""
    one, four = recipe.parent / "one" / "model", recipe.parent / "four" / "model"
    # A packed row has several of the data.
    size, *sets = (1, "data.max_seq_length=60") if batching == "packed" else (3,)
    for output, n_devices, n_rows in ((one, 1, 4 * size), (four, 4, size)):
        given = (f"train.batching={batching}", f"train.batch_size={n_rows}", *sets)
        assert start(recipe, output, n_devices, *given).wait() == 0

    for key in ("loss", "valid_loss", "grad_norm"):
        assert lines_of(one, key) == pytest.approx(lines_of(four, key), rel=1e-5), key
    for key in ("step", "supervised_tokens", "valid_rows", "accuracy_after", "eval_rows", "learning_rate"):
        assert lines_of(one, key) == lines_of(four, key), key
    rows = [line.split(",")[0] for line in (four / "training" / "learned.jsonl").read_text().splitlines()]
    assert len(set(rows)) == len(rows) == 75
    answers = [(output / "predictions.jsonl").read_text().splitlines() for output in (one, four)]
    assert [json.loads(line)["row"] for line in answers[0]] == [json.loads(line)["row"] for line in answers[1]]
    trained, expected = weights_of(four), weights_of(one)
    assert all(mx.allclose(trained[name], expected[name], rtol=1e-5, atol=1e-5) for name in expected)


PREFERENCES = {
    "dpo": ("train.objective=dpo",),
    "kept": ("train.objective=dpo", "preference.precompute=true"),
    "orpo": ("train.objective=orpo", "train.batching=grouped"),
    "kto": ("train.objective=kto",),
    "grouped kto": ("train.objective=kto", "train.batching=grouped"),
    "packed kto": ("train.objective=kto", "train.batching=packed", "data.max_seq_length=120"),
}
COMPARING = (
    *(
        "data.config=preference",
        "data.split=train[:21]",
        "data.valid_split=test[:7]",
        "data.train_on_completions=false",
    ),
    *("eval.answer_rows=0", "optim.learning_rate=0.03"),
)


@pytest.mark.slow
@pytest.mark.parametrize("sets", PREFERENCES.values(), ids=PREFERENCES)
def test_preferences_on_devices_equal_one_with_larger_batches(sets: tuple[str, ...], recipe: Path) -> None:
    """Losses, what is measured beside them, and adapters; behind the last rows of an epoch a device has none."""
    one, two = recipe.parent / "one" / "model", recipe.parent / "two" / "model"
    for output, n_devices in ((one, 1), (two, 2)):
        own = (f"train.batch_size={4 // n_devices}", f"features.path={output.parent}/features")
        given = (*LORA, *COMPARING, *sets, *own)
        assert start(recipe, output, n_devices, *given).wait() == 0

    keys = ["loss", "valid_loss", "grad_norm", "rewards/margins", "valid_rewards/margins", "entropy"]
    for key in keys + ["kl", "valid_kl"] * ("train.objective=kto" in sets):
        assert (found := lines_of(one, key)), key
        assert lines_of(two, key) == pytest.approx(found, rel=1e-5, abs=1e-5), key
    for key in ("step", "supervised_tokens", "valid_rows"):
        assert lines_of(one, key) == lines_of(two, key), key
    trained, expected = (read_arrays(output / "adapters.safetensors") for output in (two, one))
    assert all(mx.allclose(trained[name], expected[name], rtol=1e-5, atol=1e-5) for name in expected)
    # Images of 21 rows to train on and 7 to validate on, of which others may make the reference, or the first check.
    n_computed = sum(lines_of(two, f"device{rank}/features_computed")[-1] for rank in range(2))
    assert n_computed == 28 if "preference.precompute=true" in sets else 28 <= n_computed <= 32


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "n_devices"), [("dpo", 2), ("kto", 2), ("kto", 1)])
def test_preferences_on_devices_go_on(objective: str, n_devices: int, recipe: Path) -> None:
    """To the last bit with as many, and with the same microbatches on one."""
    whole, stopped = recipe.parent / "whole" / "model", recipe.parent / "stopped" / "model"
    own = (*LORA, *COMPARING, f"train.objective={objective}", "train.batch_size=2", "data.split=train[:13]")
    for output, n, n_epochs in ((whole, 2, 2), (stopped, 2, 1), (stopped, n_devices, 2)):
        sets = (*own, "train.steps_per_eval=10", f"train.epochs={n_epochs}", f"features.path={output.parent}/features")
        assert start(recipe, output, n, *sets, resume=(output, n_epochs) == (stopped, 2)).wait() == 0

    if n_devices == 1:
        assert lines_of(stopped, "loss") == pytest.approx(lines_of(whole, "loss"), rel=1e-5)
        return
    trained, expected = (read_arrays(output / "adapters.safetensors") for output in (stopped, whole))
    assert all(mx.array_equal(trained[name], expected[name]) for name in expected)
    assert lines_of(stopped, "loss") == lines_of(whole, "loss")


@pytest.mark.slow
def test_streamed_mismatched_answers_on_devices(recipe: Path) -> None:
    """KTO of a stream with bad rows in it is that of one device with larger batches, and goes on to the last bit."""
    lines = []
    for number in range(21):
        picture(24 + 16 * (number % 2), 24, number).save(recipe.parent / f"{number}.png")
        answer = {} if number in (9, 10, 16) else {"completion": " ".join(["seven"] * (1 + number % 4))}
        row = {"prompt": "Which?", "label": number % 3 > 0, "image": f"{number}.png"}
        lines.append(json.dumps({**row, **answer}))
    (recipe.parent / "rows.jsonl").write_text("\n".join(lines))
    keys = {"path": "rows.jsonl", "split": "train[5:]", "valid_split": "train[:5]", "streaming": "true"}
    keys |= {"shuffle_buffer": "4", "on_bad_row": "skip"}
    text = re.sub(r"\[data\].*?\[optim\]", "[data]\n[optim]", recipe.read_text(), flags=re.DOTALL)
    recipe.write_text(text.replace("epochs = 2\n", ""))
    sets = [*LORA, *(f"data.{name}={value}" for name, value in keys.items())]
    sets += ["train.objective=kto", "eval.answer_rows=0", "optim.learning_rate=0.03", "features.cache=false"]
    one, two, stopped = (recipe.parent / name / "model" for name in ("one", "two", "stopped"))
    for output, n_devices, *iters in ((one, 1, 6), (two, 2, 6), (stopped, 2, 3, 6)):
        for number in iters:
            given = (*sets, f"train.batch_size={4 // n_devices}", f"train.iters={number}")
            assert start(recipe, output, n_devices, *given, resume=number > iters[0]).wait() == 0

    for key in ("loss", "valid_loss", "grad_norm", "kl", "valid_kl", "supervised_tokens"):
        assert len(found := lines_of(one, key)) > 1, key
        assert lines_of(two, key) == pytest.approx(found, rel=1e-5, abs=3e-5), key
    assert max(lines_of(one, "kl")) > 0.1
    trained, expected, went_on = (read_arrays(output / "adapters.safetensors") for output in (two, one, stopped))
    assert all(mx.allclose(trained[name], expected[name], rtol=1e-5, atol=1e-5) for name in expected)
    assert all(mx.array_equal(trained[name], went_on[name]) for name in expected)
    assert lines_of(stopped, "loss") == lines_of(two, "loss")


@pytest.mark.slow
def test_a_killed_device_ends_all_and_the_run_goes_on(recipe: Path) -> None:
    """The run goes on to the last bit with as many devices, and with the same rows on one."""
    whole, killed = recipe.parent / "whole" / "model", recipe.parent / "killed" / "model"
    sets = ("train.batch_size=4", "train.steps_per_save=2", "train.epochs=3", "eval.answer_rows=0")
    assert start(recipe, whole, 2, *sets).wait() == 0
    run = start(recipe, killed, 2, *sets)
    while not (killed / "training" / "state.safetensors").is_file():
        time.sleep(0.05)
        assert run.poll() is None
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)

    assert run.wait() == 128 + signal.SIGKILL
    assert start(recipe, killed, 2, *sets, resume=True).wait() == 0
    expected, found = weights_of(whole), weights_of(killed)
    assert all(mx.array_equal(found[name], expected[name]) for name in expected)
    assert lines_of(killed, "loss") == lines_of(whole, "loss")
    assert start(recipe, killed, 1, *sets, "train.epochs=4", resume=True).wait() == 0
    assert start(recipe, whole, 2, *sets, "train.epochs=4", resume=True).wait() == 0
    assert lines_of(killed, "loss") == pytest.approx(lines_of(whole, "loss"), rel=1e-5)


DIVIDED = ("train.shard=params", "train.grad_checkpoint=true", "eval.answer_rows=0", "train.batch_size=2")
"""A run with divided weights; its steps leave a device without a row now and then."""

COMPARED = ("data.config=preference", "data.train_on_completions=false")

ADAPTER = (
    *("model.full_finetune=false", "model.train_vision=false", "features.cache=false", "optim.name=adamw"),
    *("data.split=train[:13]", "data.valid_split=test[:5]", "train.epochs=1"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("model.quantize_bits=4",),
        ("lora.method=dora", "lora.init=pissa"),
        (*COMPARED, "train.objective=orpo"),
        (*COMPARED, "train.objective=dpo"),
        (*COMPARED, "train.objective=kto"),
        (*COMPARED, "train.objective=dpo", "preference.precompute=true"),
        (*COMPARED, "train.objective=kto", "preference.precompute=true", 'preference.loss=["apo_zero_unpaired"]'),
    ],
    ids=["lora", "qlora", "dora", "orpo", "dpo", "kto", "dpo kept", "kto kept"],
)
def test_divided_weights_change_nothing(sets: tuple[str, ...], recipe: Path) -> None:
    """Losses, validation and adapter are those of whole weights, to the last bit."""
    whole, divided = recipe.parent / "whole" / "model", recipe.parent / "divided" / "model"
    sets = (*ADAPTER, *DIVIDED, *sets)
    assert start(recipe, whole, 2, *sets, "train.shard=none").wait() == 0
    assert start(recipe, divided, 2, *sets).wait() == 0

    for key in ("loss", "grad_norm", "valid_loss", "valid_tokens", "supervised_tokens"):
        assert lines_of(divided, key) == lines_of(whole, key), key
    found, expected = (read_arrays(output / "adapters.safetensors") for output in (divided, whole))
    assert all(mx.array_equal(found[name], expected[name]) for name in expected)


PACKED = ("train.batching=packed", "data.max_seq_length=60", "train.batch_size=1")


@pytest.mark.slow
@pytest.mark.parametrize("sets", [PACKED, (), (*PACKED, "train.batch_size=2")], ids=["packed", "streamed", "both"])
def test_divided_weights_of_packed_and_streamed_rows(sets: tuple[str, ...], recipe: Path) -> None:
    """Losses and adapter are those of whole weights, to the last bit, where a device has no row at an epoch's end."""
    if sets != PACKED:
        lines = []
        for number in range(13):
            picture(24, 24, number).save(recipe.parent / f"{number}.png")
            lines.append({"question": "Which?", "answer": "seven " * (number % 4) + "one", "image": f"{number}.png"})
        (recipe.parent / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
        text = re.sub(r"\[data\].*?\[optim\]", "[data]\n[optim]", recipe.read_text(), flags=re.DOTALL)
        recipe.write_text(text.replace("epochs = 2\n", ""))
        sets = (*sets, "data.path=rows.jsonl", "data.streaming=true", "data.shuffle_buffer=4", "train.iters=9")
        sets = (*ADAPTER[:4], *DIVIDED, "data.train_on_completions=true", *sets)
    else:
        sets = (*ADAPTER, *DIVIDED, *sets)
    whole, divided = recipe.parent / "whole" / "model", recipe.parent / "divided" / "model"
    assert start(recipe, whole, 2, *sets, "train.shard=none").wait() == 0
    assert start(recipe, divided, 2, *sets).wait() == 0

    assert len(lines_of(whole, "loss")) > 1
    for key in ("loss", "grad_norm", "supervised_tokens", "valid_loss"):
        assert lines_of(divided, key) == lines_of(whole, key), key
    found, expected = (read_arrays(output / "adapters.safetensors") for output in (divided, whole))
    assert all(mx.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_row_is_encoded_on_one_device(recipe: Path) -> None:
    """Of an epoch every row is learned once, and the features of its image are computed once, on any device."""
    output = recipe.parent / "shared" / "model"
    kept = [assignment for assignment in ADAPTER if not assignment.startswith("features")]
    sets = (*kept, f"features.path={output.parent / 'features'}", "train.batch_size=3", "eval.answer_rows=0")
    assert start(recipe, output, 2, *sets).wait() == 0

    rows, computed = (
        [lines_of(output, f"device{rank}/{what}")[-1] for rank in range(2)] for what in ("rows", "features_computed")
    )
    assert sum(rows) == 13
    # Those that are validated, too.
    assert sum(computed) == 13 + 5
    assert min(rows + computed) > 0


@pytest.mark.slow
def test_a_run_that_keeps_features_goes_on(recipe: Path) -> None:
    """To the last bit: a row that comes to the other device behind the first epoch finds its features on the disk."""
    whole, stopped = recipe.parent / "whole" / "model", recipe.parent / "stopped" / "model"
    kept = [assignment for assignment in ADAPTER if not assignment.startswith(("features", "data.split"))]
    sets = (*kept, "data.split=train[:21]", "train.batch_size=3", "eval.answer_rows=0")
    for output, epochs in ((whole, (3,)), (stopped, (1, 3))):
        for number in epochs:
            given = (*sets, f"train.epochs={number}", f"features.path={output.parent / 'features'}")
            assert start(recipe, output, 2, *given, resume=number > epochs[0]).wait() == 0

    assert lines_of(stopped, "loss") == lines_of(whole, "loss")
    found, expected = (read_arrays(output / "adapters.safetensors") for output in (stopped, whole))
    assert all(mx.array_equal(found[name], expected[name]) for name in expected)
    assert sum(lines_of(whole, f"device{rank}/features_computed")[-1] for rank in range(2)) == 21 + 5
    assert sum(lines_of(whole, "features_from_disk")) > 0, "none has moved"


@pytest.mark.slow
def test_answers_are_among_the_features_of_all_devices(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same rows are answered before and after training: what is told at the end counts both."""
    sets = (*LORA, "data.split=train[:13]", "train.batch_size=3", "train.epochs=1", "features.disk_gb=0")
    assert start(recipe, recipe.parent / "model", 2, *sets, "train.steps_per_eval=1000").wait() == 0
    found = re.search(r"^features of (\d+) images", capfd.readouterr().out, re.MULTILINE)

    # 13 rows are learned, 21 validated and 5 answered, before and after.
    assert found is not None
    assert int(found[1]) == 13 + 2 * (21 + 5)


@pytest.mark.slow
def test_a_run_with_divided_weights_goes_on(recipe: Path) -> None:
    """To the last bit, and also with whole weights on one device."""
    whole, stopped = recipe.parent / "whole" / "model", recipe.parent / "stopped" / "model"
    sets = (*ADAPTER, *DIVIDED, "train.steps_per_save=2")
    assert start(recipe, whole, 2, *sets, "train.epochs=2").wait() == 0
    assert start(recipe, stopped, 2, *sets, "train.epochs=1").wait() == 0
    assert start(recipe, stopped, 2, *sets, "train.epochs=2", resume=True).wait() == 0

    found, expected = (read_arrays(output / "adapters.safetensors") for output in (stopped, whole))
    assert all(mx.array_equal(found[name], expected[name]) for name in expected)
    assert lines_of(stopped, "loss") == lines_of(whole, "loss")
    assert start(recipe, stopped, 1, *sets, "train.epochs=3", resume=True).wait() == 0
