"""The public names: they are told by theme, they resolve, and they take what users of MLX give."""

import re
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest

import vlora
from tests.training import make_trainable, picture
from vlora.errors import RecipeError, SampleError

ROOT = Path(__file__).parents[2]
OLD_LOOP = (Path(__file__).parent / "own_loop_0_1.txt").read_text(encoding="utf-8")
ROWS = [{"image": picture(48, 32, number), "question": "What is it?", "answer": str(number)} for number in range(6)]


@pytest.fixture
def recipe(checkpoint: Callable[[str], Path]) -> vlora.Recipe:
    return vlora.parse_recipe("", {"model.path": str(checkpoint("qwen3_vl")), "data.path": "rows"})


def test_help_lists_them_by_theme() -> None:
    """`help(vlora)` begins with a text that has every public name."""
    told = set(re.findall(r"\w+", vlora.__doc__ or ""))

    assert set(vlora.__all__) <= told


@pytest.mark.parametrize("name", vlora.__all__)
def test_they_resolve(name: str) -> None:
    """A public name is there, under its own name and with a docstring."""
    found = getattr(vlora, name)

    assert name in dir(vlora)
    assert found.__doc__
    assert getattr(found, "__name__", name) in (name, f"vlora.{name}")


def test_version() -> None:
    """The package's version is what it is built as."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", vlora.__version__)
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]


def test_the_own_loop_of_0_1_runs_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop that the README of 0.1 had runs as it stood; its old names warn and say the new ones."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile(OLD_LOOP, "own_loop_0_1", "exec"), {"__name__": "loop"})
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    deprecated = [str(note.message) for note in caught if issubclass(note.category, DeprecationWarning)]

    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert len(deprecated) == 5
    for old in ("open_data", "open_model", "open_features", "let_go", "plan_batches"):
        assert any(f"vlora.{old} is called vlora.{vlora.RENAMED[old]} now" in message for message in deprecated)


def test_rows_of_a_program(recipe: vlora.Recipe) -> None:
    """`load_data` takes a list of dicts; a share of it is held out, or other rows validate."""
    alone = vlora.load_data(recipe, ROWS)
    both = vlora.load_data(recipe, ROWS[:4], ROWS[4:])
    shared = vlora.load_data(attrs.evolve(recipe, data=attrs.evolve(recipe.data, valid_fraction=0.34)), iter(ROWS))

    assert len(alone.train) == 6
    assert alone.valid is None
    assert both.valid is not None
    assert [both.valid[number].turns[1].text for number in range(2)] == ["4", "5"]
    assert shared.valid is not None
    assert (len(shared.train), len(shared.valid)) == (4, 2)
    assert alone.encoder(alone.train[3]).source == "rows row 3"


def test_paths_of_a_programs_rows(recipe: vlora.Recipe, tmp_path: Path) -> None:
    """Relative paths begin in data.image_root, as they do with rows of a file."""
    picture(48, 32).save(tmp_path / "a.png")
    rooted = attrs.evolve(recipe, data=attrs.evolve(recipe.data, image_root=str(tmp_path)))
    data = vlora.load_data(rooted, [{**ROWS[0], "image": "a.png"}])

    assert data.train[0].images == (str(tmp_path / "a.png"),)
    assert data.encoder(data.train[0]).image_sizes == ((48, 32),)


def test_rows_that_are_none(recipe: vlora.Recipe) -> None:
    """What is no list of dicts is refused at once, with the place."""
    with pytest.raises(RecipeError, match=r"rows: found none; give a list of dicts"):
        vlora.load_data(recipe, [])
    with pytest.raises(SampleError, match=r"valid_rows row 1: found a value of type str, expected a dict"):
        vlora.load_data(recipe, ROWS, [ROWS[0], "row"])  # type: ignore[list-item]


def test_strings_are_paths(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """States and adapters are written to and read from paths that are strings; a saved adapter replaces another."""
    made = make_trainable(checkpoint("qwen3_vl"))
    module, path = made.backbone.module, str(tmp_path / "state.safetensors")
    vlora.save_state(path, made.state)
    like = made.state._replace(params={name: mx.zeros_like(value) for name, value in made.state.params.items()})
    loaded = vlora.load_state(path, like)
    name = next(iter(made.state.params))
    adapter = str(tmp_path / "adapters.safetensors")
    vlora.save_adapter(adapter, vlora.adapter_state_dict(module, made.state.params), made.config)
    other = make_trainable(checkpoint("qwen3_vl"), lora__rank=3, lora__targets=["q_proj"])
    config = vlora.load_adapter(other.backbone, adapter)
    fresh = vlora.init_state(other.backbone, other.optimizer)

    assert mx.array_equal(loaded.params[name], made.state.params[name])
    assert config == made.config
    assert fresh.params.keys() == made.state.params.keys()
    assert all(mx.array_equal(fresh.params[name], value) for name, value in made.state.params.items())


def test_answers(recipe: vlora.Recipe) -> None:
    """A model is asked a sample's question, whether the sample has an answer or not."""
    data = vlora.load_data(recipe, ROWS)
    backbone, _ = vlora.load_model(recipe, data.files)
    sample = data.train[0]
    asked: list[Any] = [sample, attrs.evolve(sample, turns=sample.turns[:1])]
    found = [vlora.answer(backbone, data.encoder, one, max_new_tokens=5) for one in asked]

    assert found[0] == found[1]
    assert isinstance(found[0], str)
    with pytest.raises(SampleError, match="rows row 0: there is no turn to answer"):
        vlora.answer(backbone, data.encoder, attrs.evolve(sample, turns=sample.turns[1:]))
