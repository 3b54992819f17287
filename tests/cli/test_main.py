"""The command line: options reach the recipe, mistakes end with 2 and a sentence, runs and inspections print."""

import argparse
import json
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.training import picture
from vlora import Recipe, lora, parse_recipe
from vlora.cli import main as cli
from vlora.cli.main import main
from vlora.errors import RecipeError, VloraError
from vlora.events import Event, Reported, Started, StepReport
from vlora.output.paths import METRICS_NAME, RECIPE_NAME
from vlora.recipe.legacy import OPTIONS, overrides_from
from vlora.run.fit import fit

CheckpointFactory = Callable[[str], Path]

# The older script's options: name, default, the recipe's key, a value on the command line and as the recipe has it.
TABLE: list[tuple[str, Any, str, list[str], Any]] = [
    ("model-path", "mlx-community/Qwen2-VL-2B-Instruct-bf16", "model.path", ["some/model"], "some/model"),
    ("full-finetune", False, "model.full_finetune", [], True),
    ("train-vision", False, "model.train_vision", [], True),
    ("split", "train", "data.split", ["test"], "test"),
    ("dataset-config", None, "data.config", ["en"], "en"),
    ("image-resize-shape", None, "data.image_resize_shape", ["512", "384"], (512, 384)),
    ("custom-prompt-format", None, "data.custom_prompt_format", ['{"user": "{q}"}'], '{"user": "{q}"}'),
    ("learning-rate", 2e-5, "optim.learning_rate", ["1e-4"], 1e-4),
    ("batch-size", 4, "train.batch_size", ["2"], 2),
    ("iters", 1000, "train.iters", ["7"], 7),
    ("epochs", None, "train.epochs", ["3"], 3),
    ("steps-per-report", 10, "train.steps_per_report", ["1"], 1),
    ("steps-per-eval", 200, "train.steps_per_eval", ["5"], 5),
    ("steps-per-save", 100, "train.steps_per_save", ["5"], 5),
    ("val-batches", 25, "train.val_batches", ["-1"], -1),
    ("max-seq-length", 2048, "data.max_seq_length", ["512"], 512),
    ("grad-checkpoint", False, "train.grad_checkpoint", [], True),
    ("grad-clip", None, "optim.grad_clip", ["1"], 1.0),
    ("train-on-completions", False, "data.train_on_completions", [], True),
    ("gradient-accumulation-steps", 1, "train.gradient_accumulation_steps", ["4"], 4),
    ("assistant-id", None, "data.assistant_id", ["5"], 5),
    ("lora-rank", 8, "lora.rank", ["16"], 16),
    ("lora-alpha", 16.0, "lora.alpha", ["32"], 32.0),
    ("lora-dropout", 0.0, "lora.dropout", ["0.1"], 0.1),
    ("output-path", "adapters.safetensors", "output.path", ["out/a.safetensors"], "out/a.safetensors"),
    ("adapter-path", None, "model.adapter_path", ["old"], "old"),
]


def value_of(recipe: Recipe, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Collect the recipes that would be trained, instead of training them."""
    found: list[Recipe] = []

    def train(recipe: Recipe, *_: Any, **__: Any) -> int:
        found.append(recipe)
        return 0

    monkeypatch.setattr(cli, "train", train)
    monkeypatch.setattr(lora, "train", train)
    return found


def exit_code(arguments: list[str]) -> int:
    """Run the command line; argparse exits by itself."""
    try:
        return main(arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails: status 2, nothing of a traceback, and the message."""
    assert exit_code(arguments) == 2
    printed = capsys.readouterr()

    assert "Traceback" not in printed.err + printed.out
    return printed.err


@pytest.mark.parametrize(("option", "default", "key", "typed", "value"), TABLE, ids=[row[0] for row in TABLE])
def test_option(option: str, default: Any, key: str, typed: list[str], value: Any, recipes: list[Recipe]) -> None:
    """Each of the older script's options has its documented default and sets its recipe key, and only that."""
    assert main(["--dataset", "rows.jsonl"]) == 0
    assert main(["--dataset", "rows.jsonl", f"--{option}", *typed]) == 0
    plain, changed = recipes

    assert value_of(plain, key) == default
    assert value_of(changed, key) == value
    section, name = key.split(".")
    reset = attrs.evolve(getattr(changed, section), **{name: default})
    assert attrs.evolve(changed, **{section: reset}) == plain


def test_options_are_complete() -> None:
    """The table above has all options, under the names that programs use."""
    assert {option.name for option in OPTIONS} == {row[0].replace("-", "_") for row in TABLE} | {"dataset"}
    assert {option.flag for option in OPTIONS} == {f"--{row[0]}" for row in TABLE} | {"--dataset"}


def test_all_options_at_once(recipes: list[Recipe]) -> None:
    """The older script's whole command line works as it was written."""
    skipped = ("full-finetune",)  # with an adapter it is a contradiction
    arguments = [word for row in TABLE if row[0] not in skipped for word in (f"--{row[0]}", *row[3])]

    assert main([*arguments, "--dataset", "rows.jsonl"]) == 0
    for option, _, key, _, value in TABLE:
        if option not in (*skipped, "iters"):  # which epochs override
            assert value_of(recipes[0], key) == value


def test_program_of_the_older_script(recipes: list[Recipe]) -> None:
    """A program's Namespace, with all names at their older defaults, is the recipe of defaults."""
    names = {row[0].replace("-", "_"): row[1] for row in TABLE}
    lora.main(argparse.Namespace(**names, dataset="rows.jsonl"))
    lora.main(argparse.Namespace(dataset="rows.jsonl"))
    lora.main(argparse.Namespace(dataset="rows.jsonl", image_resize_shape=(8, 9), lora_alpha=3))

    assert recipes[0] == recipes[1] == parse_recipe('[data]\npath = "rows.jsonl"')
    assert recipes[2].data.image_resize_shape == (8, 9)
    assert recipes[2].lora.alpha == 3.0


def test_program_with_unknown_names() -> None:
    """Names that the older script did not have are refused, all of them, with those that it had."""
    with pytest.raises(RecipeError, match=r"lora_ranks, seed: no such option; known are .*lora_rank"):
        lora.main(argparse.Namespace(dataset="rows.jsonl", lora_ranks=3, seed=None))


def test_program_with_wrong_values() -> None:
    """Wrong values of a program are reported under their recipe keys."""
    with pytest.raises(RecipeError) as caught:
        lora.main(argparse.Namespace(dataset=3, lora_rank="8", grad_checkpoint="no"))

    assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == {
        "data.path",
        "lora.rank",
        "train.grad_checkpoint",
    }


def test_epochs_override_iters_among_the_older_options(tmp_path: Path, recipes: list[Recipe]) -> None:
    """The older script's options may have both, as a program's always do, whatever the recipe has; --set may not."""
    path = tmp_path / "a.toml"
    path.write_text('[data]\npath = "rows"\n[train]\niters = 3\n')
    lora.main(argparse.Namespace(dataset="rows", iters=1000, epochs=2))
    assert main([str(path), "--epochs", "2", "--iters", "9"]) == 0
    assert main([str(path), "--epochs", "2", "--set", "train.iters=9"]) == 2

    assert [(recipe.train.iters, recipe.train.epochs) for recipe in recipes] == [(1000, 2)] * 2


def test_overrides_are_pure() -> None:
    """None leaves the recipe's value; what is given is not changed."""
    values = {"dataset": "d", "iters": None, "image_resize_shape": (3, 4)}

    assert overrides_from(values) == {"data.path": "d", "data.image_resize_shape": [3, 4]}
    assert values == {"dataset": "d", "iters": None, "image_resize_shape": (3, 4)}


def test_options_on_top_of_a_recipe(tmp_path: Path, recipes: list[Recipe]) -> None:
    """Options and --set override a recipe's values, --set last; the others stay."""
    path = tmp_path / "a.toml"
    path.write_text('[data]\npath = "rows"\n[train]\niters = 3\nseed = 5\n[lora]\nrank = 4\n')
    sets = ["--set", "lora.rank=2", "--set", "optim.schedule=cosine", "--set", 'lora.targets=["q_proj"]']

    assert main([str(path), "--iters", "9", "--lora-rank", "3", *sets, "--set", "train.grad_checkpoint = true"]) == 0

    (recipe,) = recipes
    assert (recipe.data.path, recipe.train.iters, recipe.train.seed, recipe.lora.rank) == ("rows", 9, 5, 2)
    assert (recipe.optim.schedule, recipe.lora.targets) == ("cosine", ("q_proj",))
    assert recipe.train.grad_checkpoint


def test_set_alone(recipes: list[Recipe]) -> None:
    """Without a recipe, --set alone is enough."""
    assert main(["--set", "data.path=rows.jsonl", "--set", "train.iters=2"]) == 0
    assert (recipes[0].data.path, recipes[0].train.iters) == ("rows.jsonl", 2)


def test_bad_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that is wrong in a recipe is printed, under the recipe's name, and the status is 2."""
    path = tmp_path / "bad.toml"
    path.write_text("[train]\niters = 2.9\nitres = 3\n[model]\nfull_finetune = 'false'\n")
    message = complaint([str(path)], capsys)

    for word in ("bad.toml", "2.9", "train.iters", "train.itres", "'false'", "model.full_finetune", "data.path"):
        assert word in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["recipe", "--dataset"]),
        (["missing.toml"], ["missing.toml", "cannot read"]),
        (["inspect", "missing.toml"], ["missing.toml", "cannot read"]),
        (["a.toml", "--iters", "3", "a.toml"], ["found 2 recipes, a.toml, a.toml", "give one"]),
        (["--dataset", "d", "--iters", "many"], ["--iters", "'many'"]),
        (["--dataset", "d", "--iters", "0"], ["train.iters", "0"]),
        (["--dataset", "d", "--batch-size", "2.5"], ["--batch-size", "'2.5'"]),
        (["--dataset", "d", "--image-resize-shape", "512"], ["--image-resize-shape"]),
        (["--dataset", "d", "--custom-prompt-format", "{q}"], ["data.custom_prompt_format", "JSON"]),
        (["--dataset", "d", "--lora-rnak", "3"], ["--lora-rnak"]),
        (["--dataset", "d", "--lora-ran", "3"], ["--lora-ran"]),
        (["--dataset", "d", "--set", "train.iters"], ["--set", "'train.iters'", "section.key=value"]),
        (["--dataset", "d", "--set", "train.itres=3"], ["train.itres", "train.iters"]),
        (["--dataset", "d", "--set", "optim.name=adamx"], ["optim.name", "'adamx'"]),
        (["--iters", "3"], ["data.path", "missing"]),
        (["inspect", "--dataset", "d", "--rows", "0"], ["--rows", "found 0", "greater than 0"]),
        (["plan", "--dataset", "d", "--memory-gb", "nan"], ["--memory-gb", "found nan", "greater than 0"]),
        (["plan", "--dataset", "d", "--memory-gb", "much"], ["--memory-gb", "float", "'much'"]),
        (["--dataset", "d", "--full-finetune", "--adapter-path", "a"], ["model.adapter_path", "full_finetune"]),
        (["--dataset", "builtin:digits", "--model-path", "missing/model"], ["model.path", "missing/model"]),
        (
            ["--dataset", "builtin:digits", "--model-path", "no/such/f"],
            ["no folder 'no/such/f'; give a model's folder or a hub id"],
        ),
    ],
)
def test_mistakes(
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is typed wrongly ends with status 2 and a sentence that names it."""
    monkeypatch.chdir(tmp_path)
    message = complaint(arguments, capsys)

    for word in words:
        assert word in message
    assert not list(tmp_path.iterdir())


def test_recipe_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder, or a file that is no text, is no recipe."""
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")

    assert "cannot read" in complaint([str(tmp_path)], capsys)
    assert "cannot read" in complaint([str(tmp_path / "a.toml")], capsys)


@pytest.mark.parametrize("command", [[], ["inspect"]])
def test_missing_data_set(
    command: list[str], checkpoint: CheckpointFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set that is not there ends with status 2 and its path."""
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--output-path", str(tmp_path / "out")]
    message = complaint([*command, "--dataset", str(tmp_path / "none.jsonl"), *options], capsys)

    assert f"data.path: cannot read {str(tmp_path / 'none.jsonl')!r}" in message


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The help lists every option."""
    assert exit_code(arguments) == 0
    text = capsys.readouterr().out

    for option in OPTIONS:
        assert option.flag in text
    assert "--set" in text


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write four rows: with an image, with a larger one, without one, and of several turns."""
    picture(48, 32, 0).save(tmp_path / "a.png")
    picture(64, 48, 1).save(tmp_path / "b.png")
    turns = ["Well?", "Yes.", "And now?", "No [really]."]
    roles = ["user", "assistant"] * 2
    lines = [
        {"image": "a.png", "question": "What is it?", "answer": "A red square."},
        {"image": "b.png", "question": "And this?", "answer": "[bold]markup[/bold]"},
        {"question": "Are there two?", "answer": "There are."},
        {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_older_program_end_to_end(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that called the older script trains: an adapter, its configuration and the metrics are written."""
    out = tmp_path / "out" / "my.safetensors"

    lora.main(
        argparse.Namespace(
            model_path=str(checkpoint("qwen3_vl")),
            dataset=str(rows),
            iters=2,
            batch_size=2,
            learning_rate=1e-3,
            steps_per_report=1,
            train_on_completions=True,
            output_path=str(out),
            adapter_path=None,
        )
    )

    assert out.is_file()
    assert json.loads((out.parent / "adapter_config.json").read_text())["lora_parameters"]["rank"] == 8
    metrics = [json.loads(line) for line in (out.parent / METRICS_NAME).read_text().splitlines()]
    assert [line["step"] for line in metrics] == [0, 1, 2]
    assert metrics[0]["device"] == "cpu"
    assert metrics[1]["learning_rate"] == 1e-3
    printed = capsys.readouterr().out
    for words in ("4 rows; 2 steps", "adapter on", "step      2  loss", f"saved {out}", "mlx_vlm.generate"):
        assert words in printed


def interrupt_after(step: int, patch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when a step has been reported."""

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Event]:
        for event in fit(*args, **kwargs):
            yield event
            if isinstance(event, StepReport) and event.step == step:
                signal.raise_signal(signal.SIGINT)

    # Where the command line finds it when it needs it.
    patch.setattr("vlora.run.fit.fit", interrupted)


@pytest.mark.parametrize("entry", ["command line", "program"])
def test_interrupted_run_goes_on(
    entry: str, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends a run after its step, saved, and the command that is printed takes the remaining steps."""
    out = tmp_path / "the out"
    options = {"model_path": str(checkpoint("qwen3_vl")), "dataset": str(rows), "iters": 3, "output_path": str(out)}
    typed = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
    handler = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        # The second step runs by then.
        interrupt_after(1, patch)
        if entry == "program":
            lora.main(argparse.Namespace(**options))
        else:
            assert main([*typed, "--set", "train.steps_per_report=1"]) == 130
    printed = capsys.readouterr().out

    assert "stopped after step 2 of 3" in printed
    assert (out / "adapters.safetensors").is_file()
    assert signal.getsignal(signal.SIGINT) is handler
    command = shlex.split(next(line for line in printed.splitlines() if "--resume" in line))
    assert command[:3] == ["python", "-m", "vlora"]
    assert main(command[3:]) == 0
    assert "3 steps, going on after step 2" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (out / METRICS_NAME).read_text().splitlines()][-1] == 3


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_ends_at_once(
    number: signal.Signals,
    status: int,
    checkpoint: CheckpointFactory,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is nothing to save yet; afterwards signals are heard as before."""
    taken: list[Event] = []

    def signalled(*args: Any, **kwargs: Any) -> Iterator[Event]:
        for event in fit(*args, **kwargs):
            taken.append(event)
            yield event
            if isinstance(event, Started):
                signal.raise_signal(number)

    handler = signal.getsignal(number)
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlora.run.fit.fit", signalled)
        options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--output-path", str(out)]
        assert main(options) == status

    assert isinstance(taken[-1], Started)
    assert f"ended by {number.name}" in capsys.readouterr().out
    assert signal.getsignal(number) is handler
    assert not (out / "adapters.safetensors").exists()


def test_written_recipe_runs(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """The recipe that a run writes beside its result is a recipe that runs."""
    out = tmp_path / "out"
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "1"]

    assert main([*options, "--output-path", str(out)]) == 0
    assert main([str(out / RECIPE_NAME), "--output-path", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "adapters.safetensors").is_file()


def test_an_output_that_cannot_be_written(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output below a file ends with status 2, the file's name and the key to look at."""
    (tmp_path / "file").write_text("")
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "1"]
    message = complaint([*options, "--output-path", str(tmp_path / "file" / "out")], capsys)

    for word in (str(tmp_path / "file"), "cannot be read or written", "output.path"):
        assert word in message


def test_a_bad_row_ends_the_run(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that cannot be learned from ends a run with status 2 and its number, unless it is to be skipped."""
    (tmp_path / "b.png").unlink()
    options = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows), "--iters", "1"]
    options += ["--output-path", str(tmp_path / "out")]

    message = complaint(options, capsys)
    assert "rows.jsonl train row 1: cannot read the image" in message
    assert not (tmp_path / "out" / "adapters.safetensors").exists()

    assert main([*options, "--set", "data.on_bad_row=skip"]) == 0
    printed = capsys.readouterr().out
    assert "skipped rows.jsonl train row 1: cannot read the image" in printed
    assert "rows skipped, in all epochs together: 1;" in printed


def inspect(checkpoint: CheckpointFactory, rows: Path, *options: str) -> int:
    common = ["--model-path", str(checkpoint("qwen3_vl")), "--dataset", str(rows)]
    return exit_code(["inspect", *common, "--output-path", str(rows.parent / "out"), *options])


def test_inspect(checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inspection shows rows as the model sees them: the learned text in brackets, images as counts, sizes, totals."""
    assert inspect(checkpoint, rows, "--train-on-completions", "--rows", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)

    assert [line for line in lines if line.startswith("rows.jsonl")] == [f"rows.jsonl train row {n}" for n in range(4)]
    assert "What is it?<|im_end|>\n<|im_start|>assistant\n[A red square.<|im_end|>]" in text
    assert "[[bold]markup[/bold]<|im_end|>]" in text
    assert "[Yes.<|im_end|>]\n<|im_start|>user\nAnd now?<|im_end|>" in text
    assert "[No [really].<|im_end|>]" in text
    assert "<|vision_start|><6 image tokens><|vision_end|>" in text
    assert "6 image tokens" in lines[1]
    assert "images: 48x32" in lines[1]
    assert "images: 64x48" in text
    assert "images: none" in text
    assert lines[-2].startswith("columns: ")
    assert "question (the question), answer (the answer)" in lines[-2]
    assert lines[-1] == "4 rows: all of them can be learned from"
    assert not (rows.parent / "out").exists()


def test_inspect_counts(
    checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str], encoder: Any
) -> None:
    """The counts of an inspection are those of the encoded row."""
    assert inspect(checkpoint, rows, "--rows", "1", "--image-resize-shape", "32", "32") == 0
    counts = capsys.readouterr().out.splitlines()[1]
    from vlora import format_sample

    row = {"image": str(rows.parent / "a.png"), "question": "What is it?", "answer": "A red square."}
    example = encoder("qwen3_vl", image_resize_shape=(32, 32))(format_sample(row))
    n_image = int(example.placeholders.sum())
    assert counts == (
        f"  {len(example.tokens) - n_image} text tokens, {n_image} image tokens, {int(example.supervised.sum())} "
        "supervised; images: 32x32"
    )


def test_inspect_shows_three_rows(
    checkpoint: CheckpointFactory, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --rows the first three are shown; more than there are is all of them."""
    assert inspect(checkpoint, rows) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 rows")
    assert inspect(checkpoint, rows, "--rows", "99") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 rows")


def test_inspect_bad_row(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An inspection shows every bad row's problem, goes on to the next, and ends with status 2."""
    (tmp_path / "a.png").unlink()

    assert inspect(checkpoint, rows) == 2
    text = capsys.readouterr().out
    assert text.startswith("rows.jsonl train row 0\n  cannot read the image")
    assert "[bold]markup[/bold]" in text
    assert "3 rows: 1 cannot be learned from" in text


@pytest.mark.parametrize(("width", "is_whole"), [(None, True), (120, True), (80, False)])
def test_a_report_fits_its_terminal(width: int | None, is_whole: bool) -> None:
    """Where a report is wider than the terminal, it leaves out what the bar below it shows."""
    metrics = {"step": 123456, "loss": 18.36992, "running_loss": 18.36992, "learning_rate": 1e-3}
    metrics |= {"grad_norm": 121.0521, "tokens_per_s": 52345.1, "peak_memory_gb": 101.234}
    line = cli._report_line(Reported(metrics=metrics), width)

    assert len(line) <= (width or 120)
    assert line.startswith("step 123456  loss 18.3699  ")
    assert "grad norm 121.052  52,345 tokens/s" in line
    assert ("mean 18.3699" in line, "101.23 GB" in line) == (is_whole, is_whole)


def test_a_wrong_option_points_to_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped option is named, in two lines."""
    assert exit_code(["plan", "--memory-bg", "3"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "usage: python -m vlora plan [options] [recipe]",
        "python -m vlora plan: error: unrecognized arguments: --memory-bg; --help lists the options",
    ]


def test_errors_are_of_one_kind() -> None:
    """What the command line catches is what the library raises."""
    assert issubclass(RecipeError, VloraError)
    assert issubclass(VloraError, ValueError)
