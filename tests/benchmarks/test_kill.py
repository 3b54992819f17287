"""Runs that are killed before a change of their folder end, resumed, as if nobody had killed them."""

from collections.abc import Iterator

import pytest

from benchmarks.kill.modes import MODES
from benchmarks.kill.outcome import differences, list_unloadable
from benchmarks.kill.runs import Expected, Kill, Slot, build_shim, expect, try_kill

SITES = (
    pytest.param("write 0:/.partial-#_adapters.safetensors", 50, marks=pytest.mark.slow),
    ("rename 0:/training/state.safetensors", 2),
    pytest.param("rename 0:/adapters.safetensors", 1, marks=pytest.mark.slow),
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


@pytest.mark.parametrize(("site", "call"), SITES)
def test_killed_and_resumed(site: str, call: int, slot: Slot, expected: Expected) -> None:
    """SIGKILL comes before the call; the same adapter, state and metrics are there in the end."""
    assert expected.sites[site] >= call
    verdict = try_kill(slot, Kill(mode="packed", site=site, call=call), expected)

    assert verdict.is_killed
    assert not verdict.unequal
    assert not verdict.unloadable


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
