"""What is pushed: through the real client to a hub on the loopback interface, and nothing that is to stay here."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from huggingface_hub import ModelCard, close_session, constants
from PIL import Image

import vlora
from tests.commands import complaint
from tests.export.hub_server import TOKEN, Hub, serve
from tests.training import make_trainable
from vlora.cli.main import main
from vlora.errors import CheckpointError, RecipeError
from vlora.export.hub import push

METRICS = (
    {"step": 0, "device": "cpu", "device_name": "", "unix_time": 1.0},
    {"step": 2, "loss": 1.5, "running_loss": 1.5, "valid_loss": 1.25, "unix_time": 2.0},
    {"step": 4, "loss": 1.0, "running_loss": 1.25, "valid_loss": 1.0, "unix_time": 3.0},
    {"step": 4, "eval_rows": 5, "eval_exact_match": 0.75, "unix_time": 4.0},
)
SECRET = "hf_" + "Zz09" * 8


@pytest.fixture
def run(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """Make the folder of a run, with much that is to stay in it."""
    base = Path(shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "private" / "base"))
    made = make_trainable(base)
    folder = tmp_path / "private" / "run"
    vlora.save_adapter(folder / "adapters.safetensors", made.state.params, made.config)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    rows = tmp_path / "private" / "rows.jsonl"
    rows.write_text('{"question": "Who?", "answer": "the row itself"}\n')
    (folder / "recipe.toml").write_text(
        f'[model]\npath = "{base}"\n[data]\npath = "{rows}"\nsystem = "Be brief, {SECRET}."\n'
        f'[output]\npath = "{folder}"\n'
    )
    (folder / "predictions.jsonl").write_text('{"answer": "the row itself"}\n')
    (folder / "training").mkdir()
    mx.save_safetensors(str(folder / "training" / "state.safetensors"), {"a": mx.zeros(2)}, {"n_rows": "1497"})
    return folder


def check_nothing_private(files: dict[str, bytes], run: Path) -> None:
    """No path of the machine, no secret, no row."""
    for name, content in files.items():
        for word in (str(run.parent), str(Path.home()), SECRET, "the row itself"):
            assert word.encode() not in content, (name, word)


def test_a_dry_run(run: Path) -> None:
    """The card has base, method, rows, scores, curves, versions, recipe and use; its metadata are the hub's keys."""
    pushed = push(str(run), "me/cats", is_dry=True)
    assert pushed.address is None
    assert pushed.folder == run / "hub"
    assert pushed.files == ("README.md", "adapter_config.json", "adapters.safetensors", "curves.png", "recipe.toml")
    check_nothing_private({name: (run / "hub" / name).read_bytes() for name in pushed.files}, run)
    card = ModelCard.load(run / "hub" / "README.md")
    found = card.data.to_dict()
    assert found["library_name"] == "mlx"
    assert found["pipeline_tag"] == "image-text-to-text"
    assert set(found["tags"]) == {"mlx", "vlora", "vision-language-model", "lora"}
    assert [result.metric_type for result in card.data.eval_results or ()] == ["validation loss", "exact match"]
    for word in ("LoRA of rank 8 on 14 layers", "1,497 rows of `rows.jsonl` in 4 steps", "| exact match | 0.7500 |"):
        assert word in card.text
    for word in ("adapter_path=snapshot_download", "PeftModel.from_pretrained", "vllm serve", "mlx-vlm 0.", "```toml"):
        assert word in card.text
    with Image.open(run / "hub" / "curves.png") as picture:
        assert picture.width > 500
    with pytest.raises(RecipeError, match=r"^--out: .*hub is there already"):
        push(str(run), "me/cats", is_dry=True)


def test_metadata_of_hub_ids(run: Path) -> None:
    """A base and rows of the hub are named by their ids, with the relation that the hub shows."""
    file = run / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base"] |= {"path": "some/model", "revision": "0123abcd"}
    file.write_text(json.dumps(config))
    (run / "recipe.toml").write_text('[model]\npath = "some/model"\n[data]\npath = "some/rows"\n')
    push(str(run / "adapters.safetensors"), "me/cats", is_dry=True)
    found = ModelCard.load(run / "hub" / "README.md").data.to_dict()
    assert (found["base_model"], found["base_model_relation"]) == ("some/model", "adapter")
    assert found["datasets"] == ["some/rows"]
    assert "https://huggingface.co/some/model" in (run / "hub" / "README.md").read_text()


def test_whole_models(run: Path) -> None:
    """A model's folder is pushed with its weights, tokenizer and processor, but not where it was loaded from."""
    base = run.parent / "base"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "_name_or_path": str(base)}))
    (base / "own.py").write_text("")
    pushed = push(str(base), "me/cats", is_dry=True)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.json"} <= set(pushed.files)
    assert "own.py" not in pushed.files
    check_nothing_private({name: (base / "hub" / name).read_bytes() for name in pushed.files}, run)
    assert "_name_or_path" in json.loads((base / "config.json").read_text())


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    """One sentence each, and nothing written."""
    with pytest.raises(RecipeError, match=r"^--repo: found 'a/b/c', which is no name of a repository"):
        push(str(run), "a/b/c", is_dry=True)
    with pytest.raises(CheckpointError, match="is neither an adapter nor a model's folder"):
        push(str(tmp_path), "me/cats", is_dry=True)
    assert not (run / "hub").exists()
    (run / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match="is in PEFT's layout; `hf upload me/cats"):
        push(str(run), "me/cats", is_dry=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Let the client speak to a hub of the test's own."""
    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        close_session()
        yield served
        close_session()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning:httpx")
def test_through_the_client(run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """The repository is made private, all files arrive, and a refusal is one sentence."""
    words = ["push", str(run), "--repo", "me/cats"]
    assert main([*words, "--private", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["address"] == f"{hub.address}/me/cats"
    assert hub.created == [{"name": "cats", "organization": "me", "visibility": "private"}]
    names = {"README.md", "adapter_config.json", "adapters.safetensors", "curves.png", "recipe.toml"}
    assert set(hub.files) == names
    assert hub.large == ["adapters.safetensors"]
    assert hub.files["adapters.safetensors"] == (run / "adapters.safetensors").read_bytes()
    check_nothing_private(hub.files, run)
    hub.refuses = True
    said = complaint(words, capsys)
    assert "me/cats: the hub did not take it" in said
    assert not [path for path in run.iterdir() if path.name.startswith(".partial")]


def test_without_a_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no way to the hub, that is one sentence, too."""
    assert "me/cats: the hub did not take it" in complaint(["push", str(run), "--repo", "me/cats"], capsys)
