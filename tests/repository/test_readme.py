"""The README's lines, run."""

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vlora
from benchmarks import reading
from tests.repository.test_layers import ORDER
from tests.training import picture
from vlora.cli import main
from vlora.data.opening import read_rows
from vlora.moved import MODULES
from vlora.recipe.schema import DataSection

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
PYTHON = [text for language, text in CODE if language == "python"]
LINES = [line for language, text in CODE if language == "sh" for line in text.splitlines()]
RUN = "python -m vlora recipes/quickstart.toml"
MAP = (ROOT / "vlora" / "README.md").read_text(encoding="utf-8")
OWN_LOOP_LINES = 28
OWN_EVALUATION_LINES = 25
OWN_PREFERENCE_LOOP_LINES = 25
AFTERNOON = 2600
"""Lines."""
COMMAND = re.compile(r"`(python -m [^`]+)`")
RENAMED_ROW = re.compile(r"^\| (module )?`vlora\.([\w.]+)` \| `vlora\.([\w.]+)` \|$", re.MULTILINE)


def block(language: str, beginning: str = "") -> str:
    """Give the block of code in a language that begins so."""
    (found,) = (text for name, text in CODE if name == language and text.startswith(beginning))
    return found


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the repository's recipes and package at hand."""
    for name in ("recipes", "vlora", "benchmarks"):
        if not (cwd / name).exists():
            (cwd / name).symlink_to(ROOT / name)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=500
    )


def test_own_loop(tmp_path: Path) -> None:
    """The loop in the README is short, runs as it stands, its loss falls, and the model answers."""
    code = next(text for text in PYTHON if "make_train_step" in text)
    result = run(["-W", "error::DeprecationWarning:vlora", "-c", code], tmp_path)
    said = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    losses = [float(words[1]) for words in said if words[0] == "loss"]

    assert len([line for line in code.splitlines() if line.strip()]) <= OWN_LOOP_LINES
    assert not result.returncode, result.stderr
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert said[-1][0] == "answer"
    assert (tmp_path / "runs" / "mine" / "state.safetensors").is_file()


@pytest.mark.slow
def test_own_loop_over_preferences(tmp_path: Path) -> None:
    """The loop over pairs in the README is short, runs as it stands, and has the losses of the command, to the bit.

    Features are not kept: which images go through the tower together decides their last bits.
    """
    code = next(text for text in PYTHON if "make_reference" in text)
    recipe = (ROOT / "recipes" / "quickstart_dpo.toml").read_text(encoding="utf-8")
    (tmp_path / "recipes").mkdir()
    own = recipe.replace("runs/quickstart/model", "builtin:tiny-qwen3-vl").replace("batch_size = 32", "batch_size = 4")
    (tmp_path / "recipes" / "quickstart_dpo.toml").write_text(f"{own}\n[features]\ncache = false\n", encoding="utf-8")
    looped = run(["-W", "error::DeprecationWarning:vlora", "-c", code], tmp_path)
    keys = {"train.steps_per_report": 1, "eval.answer_rows": 0, "train.val_batches": 1}
    with (tmp_path / "recipes" / "quickstart_dpo.toml").open() as file:
        parsed = vlora.parse_recipe(file.read(), {**keys, "output.path": str(tmp_path / "out")})
    steps = (event for event in vlora.fit(parsed) if isinstance(event, vlora.events.StepReport))
    losses = [event.loss for event, _ in zip(steps, range(3), strict=False)]

    assert len([line for line in code.splitlines() if line.strip()]) <= OWN_PREFERENCE_LOOP_LINES
    assert not looped.returncode, looped.stderr
    assert [float(line.split()[1]) for line in looped.stdout.splitlines()] == losses


def test_own_evaluation(tmp_path: Path) -> None:
    """The evaluation in the README is short and runs as it stands, with an interval for each metric."""
    code = next(text for text in PYTHON if "vlora.predict" in text)
    result = run(["-W", "error::DeprecationWarning:vlora", "-c", code], tmp_path)
    said = result.stdout.splitlines()

    assert len([line for line in code.splitlines() if line.strip()]) <= OWN_EVALUATION_LINES
    assert not result.returncode, result.stderr
    assert [line.split()[0] for line in said] == ["exact_match", "token_f1", "worst"]
    assert all(re.search(r" 0\.\d{3} \(0\.\d{3} to \d\.\d{3}\) of 32 rows$", line) for line in said[:2])


def test_install_lines() -> None:
    """The install commands name extras that exist, and .ci/test runs the one of "Developing"."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    groups = re.findall(r'"\.\[([\w,]+)\]"', README)

    assert len(groups) == 4
    assert {name for group in groups for name in group.split(",")} <= set(extras)
    assert next(line for line in LINES if "pytest" in line) in (ROOT / ".ci" / "test").read_text()


def test_commands_in_the_text() -> None:
    """Every command of vlora that the text names is one, with options that it has and recipes that there are."""
    # What a shell does with their output is its business.
    typed = [command.partition(" > ")[0] for command in COMMAND.findall(README) if "-m vlora" in command]
    # A launcher may stand before it.
    words_of = (shlex.split(command.partition("-m vlora")[2]) for command in typed)
    commands = [words for words in words_of if words]

    assert len(commands) >= 8
    for words in commands:
        is_named = words[0] in main.COMMANDS
        if {main.VERSION, *main.HELP} & {*words[is_named : is_named + 1]}:
            continue
        parser = importlib.import_module(f"vlora.cli.{words[0] if is_named else 'train'}").make_parser()
        parsed = parser.parse_args(words[is_named:])
        assert all(
            recipe == "my.toml" or (ROOT / recipe).is_file() for recipe in getattr(parsed, "recipes", None) or ()
        )


def test_own_recipe() -> None:
    """The ten lines are a recipe, and the keys that the text names exist."""
    text = block("toml", "[model]")
    recipe = vlora.parse_recipe(text)
    assert len(vlora.parse_recipe(block("toml", "[[data.sources]]")).data.sources) == 2
    named = set(re.findall(r"`(?:\[data\] )?(eval|features|lora|memory|model|optim|train)\.(\w+)(?: =[^`]*)?`", README))
    named |= {("data", key) for key in re.findall(r"`data\.(\w+)`", README)} - {("data", "train"), ("data", "encoder")}

    assert len(text.splitlines()) == 10
    assert recipe.data.valid_fraction == 0.05
    named -= {("lora", "py")}
    assert not [f"{section}.{key}" for section, key in sorted(named) if not hasattr(getattr(recipe, section), key)]


def test_own_rows(tmp_path: Path) -> None:
    """Every row of the README is read, beside its image, as a question about it and an answer."""
    (tmp_path / "rows.jsonl").write_text(block("jsonl"), encoding="utf-8")
    picture(48, 32).save(tmp_path / "cat.png")
    rows, _ = read_rows(DataSection(path=str(tmp_path / "rows.jsonl")))
    samples = [rows[number] for number in range(len(rows))]

    assert len(samples) == 5
    assert all(sample.turns[-1].text for sample in samples)
    assert [sample.images for sample in samples if sample.images] == [(str(tmp_path / "cat.png"),)] * 4


def test_own_folders(tmp_path: Path) -> None:
    """Both folders of images are read as the README draws them, with the question that it asks of a class."""
    drawn = block("text", "photos/")
    for name in re.findall(r"^(\w+/[\w/]+\.png)", drawn, flags=re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(48, 32).save(tmp_path / name)
    metadata = next(line for line in drawn.splitlines() if line.startswith("photos/metadata.jsonl")).split(maxsplit=1)
    (tmp_path / metadata[0]).write_text(metadata[1], encoding="utf-8")
    (asked,) = re.findall(r"custom_prompt_format = '(.*)'", drawn)
    photos, _ = read_rows(DataSection(path=str(tmp_path / "photos")))
    pets, _ = read_rows(DataSection(path=str(tmp_path / "pets"), custom_prompt_format=asked))

    assert [turn.text for turn in photos[0].turns] == ["What is it?", "A cat."]
    assert [[turn.text for turn in pets[number].turns] for number in range(2)] == [
        ["What is it?", "cat"],
        ["What is it?", "dog"],
    ]


def test_the_changelog_has_every_changed_name() -> None:
    """The table of the changelog is what old names resolve to."""
    rows = {(bool(module), old): new for module, old, new in RENAMED_ROW.findall(README)}

    assert rows == {
        **{(False, old): new for old, new in vlora.RENAMED.items()},
        **{(True, old): new for old, new in MODULES.items()},
    }


def test_contributing() -> None:
    """CONTRIBUTING is short, and the licence is there in full."""
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 45
    assert "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_links() -> None:
    """Every file that the texts for people name is there."""
    for text in ("README.md", "CONTRIBUTING.md", "vlora/README.md"):
        found = (ROOT / text).read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#]+)\)", found)
        assert all(link.startswith("http") or ((ROOT / text).parent / link).exists() for link in links), text


def test_the_map_lists_every_place() -> None:
    """The map has the package's folders and modules in the order of the layers."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", MAP[: MAP.index("## An afternoon")], flags=re.MULTILINE)

    assert [" ".join(re.findall(r"\w+", row)) for row in rows] == list(ORDER)


def test_the_reading_list_is_an_afternoons() -> None:
    """The list's files are there and no more than an afternoon's, as it says; a file may grow without the list."""
    listed = reading.read_list(ROOT)

    assert len(listed) > 10
    assert f"at most {AFTERNOON:,} lines" in MAP
    assert sum(listed.values()) <= AFTERNOON


def test_the_places_to_add_something_are_there() -> None:
    """Every file that the map names is there."""
    named = re.findall(r"`([\w/]+/[\w.]+\.(?:py|md|toml|tsv))`", MAP)

    assert len(named) > 20
    assert not [name for name in named if not ((ROOT / name).is_file() or (ROOT / "vlora" / name).is_file())]


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`inspect` and a short quickstart, as the README writes them, exit with 0 and write what it says."""
    inspect, short = (
        shlex.split(line)[1:] for line in LINES if "vlora inspect recipes/" in line or "runs/short" in line
    )
    trained = run([*short, "--set", "data.split=train[:160]", "--set", "eval.answer_rows=10"], tmp_path)

    # Within the process: it takes the other half of the time to begin.
    monkeypatch.chdir(tmp_path)
    assert not main.main(inspect[2:])
    assert "[1<|im_end|>]" in capsys.readouterr().out
    assert not trained.returncode, trained.stderr
    assert {"config.json", "model.safetensors", "metrics.jsonl", "recipe.toml"} <= {
        file.name for file in (tmp_path / "runs" / "short").iterdir()
    }
    # What the README shows of a run are lines that a run prints.
    shown_lines = [line for line in block("text", "device: ").splitlines() if not line.startswith(("step", "...", " "))]
    shown_heads, heads = (
        {re.sub(r"\d+", "0", line.split()[0]) for line in lines if line}
        for lines in (shown_lines, trained.stdout.splitlines())
    )
    assert shown_heads <= heads


@pytest.mark.slow
def test_quickstarts_reach_their_accuracies(tmp_path: Path) -> None:
    """Both quickstart recipes reach their accuracies from about chance, and the printed commands work."""
    for line, least in ((RUN, 0.95), (LINES[0], 0.90)):
        result = run(shlex.split(line)[1:], tmp_path)
        assert not result.returncode, result.stderr
        command = shlex.split(result.stdout.strip().splitlines()[-1])
        answer = run(command[1:], tmp_path)
        weights = Path(command[command.index("--adapter-path") + 1]).parent if "--adapter-path" in command else None
        folder = tmp_path / (weights or command[command.index("--model") + 1])
        last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
        before, after = (float(value) for value in re.findall(r'"accuracy_\w+": ([\d.]+)', last))

        assert before <= 0.1
        assert after >= least
        assert answer.stdout.strip().splitlines()[-1] in ("0", "zero")
    (benchmark,) = (line for line in LINES if "benchmarks.step" in line)
    result = run([*shlex.split(benchmark)[1:], "--steps", "2", "--warmup", "1"], tmp_path)

    assert not result.returncode, result.stderr
