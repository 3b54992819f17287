"""The command that asks a model: once, in a conversation, and what it says of slips."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vlora
from tests.commands import complaint
from tests.training import make_trainable, picture
from vlora.cli.main import main
from vlora.models.generation.talk import Talk
from vlora.types import Turn


@pytest.fixture
def adapter(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """Save an adapter, and an image."""
    made = make_trainable(checkpoint("qwen3_vl"))
    vlora.save_adapter(tmp_path / "adapters.safetensors", made.state.params, made.config)
    picture(40, 40).save(tmp_path / "a.png")
    return tmp_path


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: Any) -> None:
    """Let these lines be typed; an exception is raised in the place of one."""
    waiting = iter([*lines, EOFError()])

    def read(_: str = "") -> str:
        line = next(waiting)
        if isinstance(line, BaseException):
            raise line
        return str(line)

    monkeypatch.setattr("builtins.input", read)


def test_one_question(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer alone is printed, or an object; slips are one sentence, before anything is loaded."""
    words = ["run", str(adapter), "--image", str(adapter / "a.png"), "--prompt", "What is it?", "--max-tokens", "6"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["event"] == "Answer"
    assert found["n_tokens"] <= 6
    assert found["finish"] in ("stop", "length")
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr().out == found["text"] + "\n"
    assert "--image: there is no file nowhere.png" in complaint([*words, "--image", "nowhere.png"], capsys)
    (adapter / "b.png").write_bytes(b"no picture")
    assert "b.png" in complaint([*words, "--image", str(adapter / "b.png")], capsys)
    assert "--prompt: found no question" in complaint(["run", str(adapter), "--prompt", " "], capsys)
    assert complaint(["run", "nowhere"], capsys).startswith("vlora: model: there is no folder 'nowhere'")
    assert complaint(["run", str(adapter), "--base", "nowhere"], capsys).startswith("vlora: --base: there is no folder")
    gone = tmp_path / "gone"
    shutil.copytree(adapter, gone)
    config = json.loads((gone / "adapter_config.json").read_text())
    config["base_model"] = config["base"]["path"] = str(tmp_path / "nowhere")
    (gone / "adapter_config.json").write_text(json.dumps(config))
    told = complaint(["run", str(gone), "--prompt", "a"], capsys)
    assert told.startswith(f"vlora: the base that {gone} names (--base gives another place): there is no folder")
    assert "must be 0 or greater" in complaint([*words, "--temperature", "-1"], capsys)


def test_a_conversation(adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Images are shown with the next question, a slip is told and the talk goes on, and Ctrl-C ends an answer only."""
    asked: list[tuple[str, tuple[str, ...]]] = []

    def ask(talk: Talk, text: str, images: Any = ()) -> Iterator[str]:
        asked.append((text, tuple(images)))
        yield "well"
        if text == "long":
            raise KeyboardInterrupt
        talk.turns.append(Turn("assistant", ("well",)))

    monkeypatch.setattr(Talk, "ask", ask)
    image = str(adapter / "a.png")
    type_in(
        monkeypatch, f"/image {image}", "What?", "/image none.png", "long", KeyboardInterrupt(), "", "/help", "more"
    )
    assert main(["run", str(adapter), "--max-tokens", "2"]) == 0
    assert asked == [("What?", (image,)), ("long", ()), ("more", ())]
    printed = capsys.readouterr()
    assert "there is no file none.png" in printed.err
    assert printed.out.count("well\n") == 3
    assert "/exit or Ctrl-D ends" in printed.out
    type_in(monkeypatch, "/new", "/exit", "never")
    assert main(["run", str(adapter)]) == 0
    assert len(asked) == 3


def test_the_talk_is_kept_until_it_begins_anew(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second answer knows of the first question; each is an object with --json."""
    type_in(monkeypatch, "Say hi", "Say hi")
    assert main(["run", str(adapter), "--max-tokens", "4", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [found["event"] for found in answers] == ["Answer", "Answer"]
