"""The command that lists and writes recipes."""

from pathlib import Path

import pytest

from tests.commands import complaint
from vlora.cli.main import main
from vlora.cli.packaged_recipes import list_recipes, read_packaged
from vlora.recipe.parse import parse_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_lists_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --recipe each has a line with what it is for, and nothing is written."""
    assert main(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [line.split(maxsplit=1) for line in lines[:-2]] == [list(entry) for entry in list_recipes().items()]
    assert lines[-1] == "  python -m vlora init --recipe NAME my.toml"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", list_recipes())
def test_what_it_writes_is_the_recipe(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same keys; the commands in its comments name the new file, and so do those that are printed."""
    assert main(["init", "--recipe", name, "my own.toml"]) == 0
    text = (tmp_path / "my own.toml").read_text()
    printed = capsys.readouterr().out

    assert parse_recipe(text) == parse_recipe(read_packaged(name))
    assert f"recipes/{name}.toml" not in text
    assert ("python -m vlora 'my own.toml'" in text) == (name != "forkme")
    assert printed.endswith("then:\n  python -m vlora inspect 'my own.toml'\n  python -m vlora 'my own.toml'\n")


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("quickstart", []),
        ("quickstart_qlora", ["model.path: there is no 'runs/quickstart/model' yet"]),
        (
            "qwen3_resume",
            [
                "model.adapter_path: there is no 'runs/qwen3-lora' yet",
                "data.path: cannot read 'your-data.jsonl'",
            ],
        ),
    ],
)
def test_it_says_what_to_change(name: str, problems: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Files and folders that are not there are named with their keys; names on the hub are not looked for."""
    assert main(["init", "--recipe", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = lines[2:-3] if problems else []

    assert ("change in it:" in lines) == bool(problems)
    assert [line.strip()[: len(problem)] for line, problem in zip(found, problems, strict=True)] == problems


def test_files_that_are_there_need_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the recipe names is looked for where a run would look."""
    (tmp_path / "runs" / "quickstart" / "model").mkdir(parents=True)

    assert main(["init", "--recipe", "quickstart_qlora"]) == 0
    assert "change in it:" not in capsys.readouterr().out


def test_it_names_the_file_itself(tmp_path: Path) -> None:
    """Without a file it is the recipe's name, here or in the folder that is given."""
    (tmp_path / "recipes").mkdir()

    assert main(["init", "--recipe", "quickstart.toml"]) == 0
    assert main(["init", "recipes", "--recipe", "quickstart"]) == 0
    assert (tmp_path / "quickstart.toml").is_file()
    assert "python -m vlora recipes/quickstart.toml" in (tmp_path / "recipes" / "quickstart.toml").read_text()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file, or a link that leads nowhere, stays as it is."""
    (tmp_path / "quickstart.toml").write_text("mine")
    (tmp_path / "link.toml").symlink_to("elsewhere.toml")

    assert "quickstart.toml: is there already" in complaint(["init", "--recipe", "quickstart"], capsys)
    assert "link.toml: is there already" in complaint(["init", "--recipe", "quickstart", "link.toml"], capsys)
    assert (tmp_path / "quickstart.toml").read_text() == "mine"
    assert not (tmp_path / "elsewhere.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "quikstart"], "did you mean quickstart?"),
        (["quickstart"], "add --recipe quickstart "),
        (["my.toml"], "add --recipe NAME "),
        (["no/such/folder"], "vlora: data: cannot read 'no/such/folder'"),
        (["--recipe", "quickstart", "no/such/folder.toml"], "no/such/folder.toml: cannot be written (No such file"),
    ],
)
def test_mistakes(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is typed wrongly ends with status 2 and a sentence; nothing is written."""
    assert words in complaint(["init", *arguments], capsys)
    assert not list(tmp_path.iterdir())
