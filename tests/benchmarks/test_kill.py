"""Runs that are killed before a change of their folder end, resumed, as if nobody had killed them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from benchmarks.kill.__main__ import plan_kills
from benchmarks.kill.devices import RECIPES, kill_ranks
from benchmarks.kill.drawn import draw_recipe, kill_drawn
from benchmarks.kill.modes import MODES
from benchmarks.kill.outcome import differences, list_unloadable
from benchmarks.kill.runs import Expected, Kill, Slot, build_shim, expect, try_kill
from vlora.recipe import parse_recipe

SITES = (
    ("write 0:/.partial-#_adapters.safetensors", 50),
    ("rename 0:/training/state.safetensors", 2),
    ("rename 0:/adapters.safetensors", 1),
)
"""Within the second adapter; where only the state before is under its name; at the end."""


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    """Start the process that makes runs."""
    root = tmp_path_factory.mktemp("kill")
    shim = build_shim(root)
    if shim is None:
        pytest.skip("needs Linux and a C compiler")
    with Slot.open(root / "slot", shim) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(slot: Slot, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """Make the run that nobody kills."""
    return expect(slot, MODES["packed"], tmp_path_factory.mktemp("expected"), is_checked=False)


@pytest.mark.parametrize(
    "text",
    [*(mode.recipe for mode in MODES.values()), *RECIPES.values()],
    ids=[*MODES, *(f"{name}-2" for name in RECIPES)],
)
def test_recipes(text: str) -> None:
    """Every kind of run has a recipe without a contradiction."""
    recipe = parse_recipe(text)
    assert recipe.data.path or len(recipe.data.sources) > 1


def test_sampled_moments() -> None:
    """A sample is of all modes' moments, as many as wanted, none twice, and the same for the same seed."""
    sites = Counter({"write 0:/a": 9, "rename 0:/a": 1, "open 0:/a": 3})
    one = Expected(mode=MODES["lora"], start=Path(), files={}, earlier={}, sites=sites, seconds=2.0)
    expected = {"lora": one, "streamed": attrs.evolve(one, mode=MODES["streamed"])}
    whole = plan_kills(expected, 4, 0)
    assert len(whole) == 2 * (3 + 1) + 4
    drawn = plan_kills(expected, 4, 0, most=6)
    assert len(set(drawn)) == 6
    assert set(drawn) <= set(whole)
    assert drawn == plan_kills(expected, 4, 0, most=6)
    assert plan_kills(expected, 4, 0, most=99) != whole
    assert set(plan_kills(expected, 4, 0, most=99)) == set(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("site", "call"), SITES)
def test_killed_and_resumed(site: str, call: int, slot: Slot, expected: Expected) -> None:
    """SIGKILL comes before the call; the same adapter, state and metrics are there in the end."""
    assert expected.sites[site] >= call
    verdict = try_kill(slot, Kill(mode="packed", site=site, call=call), expected)

    assert verdict.is_killed
    assert not verdict.unequal
    assert not verdict.unloadable


@pytest.mark.slow
def test_what_differs_is_found(slot: Slot, expected: Expected) -> None:
    """One byte of the adapter, a line of the metrics, a file too many, one that was cut."""
    files = expected.files
    assert not differences(files, files)
    changed = {
        **files,
        "out/adapters.safetensors": "another",
        "out/new": "",
        "out/metrics.jsonl": [*files["out/metrics.jsonl"], {"step": 9}],
    }
    found = differences({name: text for name, text in changed.items() if name != "out/recipe.toml"}, files)
    assert [line.split(":")[0] for line in found] == [
        "out/recipe.toml is missing",
        "out/new is left over",
        "out/adapters.safetensors differs",
        "out/metrics.jsonl differs",
    ]
    (slot.folder / "out" / "adapters.safetensors").write_bytes(b"cut")
    assert list_unloadable(slot.folder, files) == ["out/adapters.safetensors is not whole"]


@pytest.mark.slow
def test_devices_find_the_features_of_all_when_they_go_on(tmp_path: Path) -> None:
    """A killed run of two devices that keep features goes on to the bits of the whole one.

    Where the process with the higher rank is killed, features that it had computed before the last state was saved are
    not computed again: their last bits depend on the images that go through the tower together with them.
    """
    found = kill_ranks(tmp_path, ["features"], 2, 3, seed=11, say=lambda _: None)

    assert (found["fine"], found["runs"]) == (3, 3)
    assert found["killed"] >= 1


def test_drawn_recipes() -> None:
    """The same seed draws the same recipe; every ability is drawn now and then, and none contradicts another."""
    drawn = [draw_recipe(seed) for seed in range(60)]
    recipes = [parse_recipe(one.text) for one in drawn]

    assert drawn[7] == draw_recipe(7)
    assert {recipe.train.objective for recipe in recipes} == {"sft", "dpo", "kto", "orpo", "cpo"}
    assert {recipe.train.batching for recipe in recipes} == {"shuffled", "grouped", "packed"}
    assert {one.n_devices for one in drawn} == {1, 2}
    abilities = [
        (recipe.data.streaming, bool(recipe.data.sources), recipe.model.full_finetune, recipe.features.cache)
        for recipe in recipes
    ]
    assert all(set(found) == {True, False} for found in zip(*abilities, strict=True))
    assert {recipe.model.quantize_bits for recipe in recipes} == {None, 4}


@pytest.mark.slow
def test_a_drawn_run_is_killed_and_goes_on(tmp_path: Path) -> None:
    """What it leaves is that of the run that nobody kills; folders of which all is well are removed."""
    found = kill_drawn(tmp_path, 1, seed=2, say=lambda _: None, most_devices=1)

    assert (found["equal"], found["wrong"]) == (1, [])
    assert found["killed"] >= 1
    assert not list(tmp_path.iterdir())
