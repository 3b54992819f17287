"""The arguments of commands: options and `--set` reach the recipe, mistakes end with 2 and a sentence."""

import argparse
import importlib
import shlex
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.commands import OLDER_OPTIONS, complaint, exit_code
from vlora import Recipe, lora
from vlora.cli.main import COMMANDS, main
from vlora.recipe.legacy import OPTIONS


def value_of(recipe: Recipe, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


@pytest.mark.parametrize(
    ("option", "default", "key", "typed", "value"), OLDER_OPTIONS, ids=[row[0] for row in OLDER_OPTIONS]
)
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
    assert {option.name for option in OPTIONS} == {row[0].replace("-", "_") for row in OLDER_OPTIONS} | {"dataset"}
    assert {option.flag for option in OPTIONS} == {f"--{row[0]}" for row in OLDER_OPTIONS} | {"--dataset"}


def test_all_options_at_once(recipes: list[Recipe]) -> None:
    """The older script's whole command line works as it was written."""
    # With an adapter the first is a contradiction, and the others exclude one another.
    skipped = ("full-finetune", "valid-split", "valid-fraction")
    arguments = [word for row in OLDER_OPTIONS if row[0] not in skipped for word in (f"--{row[0]}", *row[3])]

    assert main([*arguments, "--dataset", "rows.jsonl"]) == 0
    for option, _, key, _, value in OLDER_OPTIONS:
        if option not in (*skipped, "iters"):  # which epochs override
            assert value_of(recipes[0], key) == value


def test_epochs_override_iters_among_the_older_options(tmp_path: Path, recipes: list[Recipe]) -> None:
    """The older script's options may have both, as a program's always do, whatever the recipe has; --set may not."""
    path = tmp_path / "a.toml"
    path.write_text('[data]\npath = "rows"\n[train]\niters = 3\n')
    lora.main(argparse.Namespace(dataset="rows", iters=1000, epochs=2))
    assert main([str(path), "--epochs", "2", "--iters", "9"]) == 0
    assert main([str(path), "--epochs", "2", "--set", "train.iters=9"]) == 2

    assert [(recipe.train.iters, recipe.train.epochs) for recipe in recipes] == [(1000, 2)] * 2


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
        (["--dataset", "d", "--set", "lr=1e-4"], ["lr: unknown key; did you mean optim.learning_rate?"]),
        (["--dataset", "d", "--lr", "1e-4"], ["arguments: --lr; did you mean --learning-rate?"]),
        (["--dataset", "d", "--learnin-rate", "3"], ["did you mean --learning-rate?"]),
        (["inspect", "recipe.toml", "--longst", "3"], ["did you mean --longest?"]),
        (["compare", "a", "b", "--htlm", "c"], ["did you mean --html?"]),
        (["compare", "a", "b", "--lr", "3"], ["arguments: --lr 3; --help lists the options"]),
        (["--dataset", "d", "--warmup=3"], ["did you mean --set optim.warmup_steps=VALUE?"]),
        (["--dataset", "d", "--train.seed", "3"], ["did you mean --set train.seed=VALUE?"]),
        (["--dataset", "d", "--objective", "dpo"], ["did you mean --set train.objective=VALUE?"]),
        (["plan", "--dataset", "d", "--bf16"], ["--bf16; there is no such key", "model.path"]),
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


def test_recipes_that_extend_others(
    tmp_path: Path, recipes: list[Recipe], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From beside the file that names them, wherever the command is run; what is wrong names all files."""
    (tmp_path / "more").mkdir()
    (tmp_path / "base.toml").write_text('[data]\npath = "rows"\n[train]\niters = 3\nseed = 5\n')
    (tmp_path / "more" / "a.toml").write_text('extends = "../base.toml"\n[train]\nepochs = 2\n')
    (tmp_path / "more" / "b.toml").write_text('extends = "a.toml"\n[lora]\nrank = 4\n')
    for folder, name in (
        (tmp_path, "more/b.toml"),
        (tmp_path / "more", "b.toml"),
        (Path("/"), tmp_path / "more/b.toml"),
    ):
        monkeypatch.chdir(folder)
        assert main([str(name), "--set", "train.seed=6"]) == 0
    assert len(set(recipes)) == 1
    assert (recipes[0].data.path, recipes[0].train.epochs, recipes[0].train.seed) == ("rows", 2, 6)
    assert recipes[0].lora.rank == 4

    monkeypatch.chdir(tmp_path)
    message = complaint(["more/b.toml", "--set", "lora.rank=0"], capsys)
    assert message.startswith("vlora: more/b.toml, which extends more/a.toml, base.toml:\n  lora.rank: found 0")
    (tmp_path / "base.toml").write_text('extends = "more/../more/b.toml"')
    assert "base.toml: extends: found 'more/../more/b.toml', which leads back to itself (more/b.toml -> " in complaint(
        ["more/b.toml"], capsys
    )
    (tmp_path / "base.toml").unlink()
    message = complaint(["more/b.toml"], capsys)
    assert "extends: found '../base.toml', and base.toml cannot be read (No such file or directory)" in message
    assert "from beside more/a.toml" in message

    for wanted, problem in (("~no-such-user/a.toml", "No such file or directory"), ("/dev/zero", "it is a device")):
        (tmp_path / "c.toml").write_text(f'extends = "{wanted}"')
        assert f"extends: found '{wanted}', and " in (message := complaint(["c.toml"], capsys))
        assert problem in message
    assert "cannot read the recipe (it is a device; expected a file)" in complaint(["/dev/zero"], capsys)


def test_recipes_may_begin_with_a_mark_of_their_encoding(tmp_path: Path, recipes: list[Recipe]) -> None:
    """As editors on Windows write it, also in a recipe that another one extends."""
    (tmp_path / "a.toml").write_text('[data]\npath = "rows"\n', encoding="utf-8-sig")
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n', encoding="utf-8-sig")

    assert main([str(tmp_path / "a.toml")]) == main([str(tmp_path / "b.toml")]) == 0
    assert [recipe.data.path for recipe in recipes] == ["rows", "rows"]


@pytest.mark.parametrize("name", ["photos", "rows.jsonl", "a.CSV"])
def test_rows_in_a_recipes_place(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence has the command that makes a recipe of them."""
    path = tmp_path / name
    if name == "photos":
        path.mkdir()
    else:
        path.write_text('{"question": "a", "answer": "b"}')

    assert f"expected a recipe; `python -m vlora init {path}` writes one for rows" in complaint([str(path)], capsys)


def test_a_run_in_a_recipes_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its folder has its recipe."""
    (tmp_path / "recipe.toml").write_text('data.path = "rows"')

    assert f"found a folder, expected a recipe; give {tmp_path / 'recipe.toml'}" in complaint([str(tmp_path)], capsys)


def test_recipe_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder, or a file that is no text, is no recipe."""
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")

    assert "found a folder, expected a recipe" in complaint([str(tmp_path)], capsys)
    assert "cannot read" in complaint([str(tmp_path / "a.toml")], capsys)


@pytest.mark.parametrize("command", [[], ["train"], ["inspect"], ["plan"]])
def test_help_of_all_options(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`--help-all` lists every option, those of the older script too."""
    assert exit_code([*command, "--help-all"]) == 0
    text = capsys.readouterr().out

    for option in OPTIONS:
        assert option.flag in text
    assert "--set" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's help is short, fits 79 columns, and has examples that the command takes."""
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    examples = [line.strip() for line in lines[lines.index("examples:") + 1 :]]

    assert len(lines) <= 45
    assert max(map(len, lines)) <= 79
    assert "--lora-rank LORA_RANK" not in "\n".join(lines)
    commands = [line.partition("  # ")[0].partition(" > ")[0] for line in examples if not line.startswith("#")]
    assert len(commands) >= 2
    for typed in commands:
        words = shlex.split(typed)[3:]
        assert words[0] == command or command == "train"
        module = importlib.import_module(f"vlora.cli.{command}")
        module.make_parser().parse_intermixed_args(words[words[0] == command :])


def test_a_wrong_option_points_to_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped option is named, in two lines."""
    assert exit_code(["plan", "--memory-bg", "3"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "usage: python -m vlora plan [options] [recipe]",
        "python -m vlora plan: error: unrecognized arguments: --memory-bg; did you mean --memory-gb?",
    ]


@pytest.mark.parametrize(
    "typed",
    [
        "train ''",
        "inspect rows.toml --html ''",
        "inspect rows.toml --worst ' '",
        "eval rows.toml --adapter ''",
        "eval rows.toml --write ''",
        "init ''",
        "init rows ''",
        "init rows --model ''",
        "run ''",
        "run run --image ''",
        "run run --base ''",
        "fuse ''",
        "fuse run --out ''",
        "fuse run --base ''",
        "export '' --to peft",
        "export run --to peft --out ''",
        "export run --to vllm --base ''",
        "import ''",
        "import run --out ''",
        "import run --model ''",
        "push '' --repo me/model",
        "push run --repo ''",
        "push run --repo me/model --dry-run --out ''",
        "compare '' ''",
        "compare run --html ''",
        "doctor ''",
        "doctor --write ''",
    ],
)
def test_empty_names_are_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file, folder, model or repository without a name: an empty path would be the current folder."""
    assert "found an empty name" in complaint(shlex.split(typed), capsys)
