"""Checkpoints of transformers 4 and 5 are the same model; what cannot be is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from tests.checkpoints import FAMILIES
from tests.models.load.test_transformers5 import LLAMA3, MROPE, THETA, Config, newer, translate
from tests.training import picture
from vlora import collate, format_sample, models
from vlora.cli.main import main
from vlora.recipe.schema import DataSection, ModelSection


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_language_model_is_written_where_it_is_read(family: str) -> None:
    """Families whose language model mlx-vlm reads at the top find it there, theirs first."""
    config = newer(rope_parameters={**MROPE, "type": "mrope"}, vocab_size=320, model_type=f"{family}_text")
    config |= {"model_type": family, "tie_word_embeddings": False}
    config["vision_config"] = {"model_type": f"{family}_vision"}
    translated = translate(family, config)
    assert "text_config" not in translated
    assert translated["model_type"] == translated["vision_config"]["model_type"] == family
    assert translated["hidden_size"] == 64
    assert translated["rope_theta"] == THETA
    assert translated["rope_scaling"]["type"] == "mrope"


def test_older_configurations_stay_as_they_are(checkpoint: Callable[[str], Path]) -> None:
    """Translating is for transformers 5 only, changes nothing twice, and not its argument."""
    older = json.loads((checkpoint("mllama") / "config.json").read_text())
    assert translate("mllama", older) == older
    config = newer(rope_parameters=LLAMA3)
    kept = json.dumps(config)
    once = translate("mllama", config)
    assert json.dumps(config) == kept
    assert translate("mllama", once) == once


def spell_anew(config: Config) -> Config:
    """Write a config.json of transformers 4 as transformers 5.23 does."""
    config = json.loads(json.dumps(config))
    config["dtype"] = config.pop("torch_dtype")
    if "text_config" not in config:
        moved: tuple[str, ...] = (
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_hidden_layers",
            "num_key_value_heads",
        )
        moved += ("rope_theta", "rope_scaling", "rms_norm_eps", "vocab_size", "max_position_embeddings", "hidden_act")
        config["text_config"] = {key: config.pop(key) for key in moved if key in config}
        config["vision_config"]["model_type"] = f"{config['model_type']}_vision"
    text = config["text_config"]
    text["rope_parameters"] = {
        "rope_type": "default",
        **text.pop("rope_scaling", {}),
        "rope_theta": text.pop("rope_theta", 10_000.0),
    }
    if "sliding_window_pattern" in text:
        pattern = text.pop("sliding_window_pattern")
        places = range(1, text["num_hidden_layers"] + 1)
        text["layer_types"] = ["sliding_attention" if place % pattern else "full_attention" for place in places]
    return config


def copy_checkpoint(base: Path, folder: Path, config: Config) -> Path:
    """Copy a checkpoint under another configuration."""
    shutil.copytree(base, folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load_encoder(folder: Path, **data: Any) -> models.Encoder:
    """Make the encoder of a folder."""
    section = ModelSection(path=str(folder))
    files = models.find_model(section)
    processor = models.load_processor(files, section)
    return models.make_encoder(processor, files.config, files.family, DataSection(path="rows", **data))


def logits(folder: Path, files: models.ModelFiles | None = None) -> np.ndarray:
    """Compute the logits of two rows, one of them with an image."""
    section = ModelSection(path=str(folder))
    files = files or models.find_model(section)
    backbone, _ = models.load_backbone(files, section)
    encode = load_encoder(folder)
    rows: list[dict[str, Any]] = [
        {"image": picture(48, 32), "question": "What is it?", "answer": "red"},
        {"question": "a", "answer": "b"},
    ]
    batch = collate([encode(format_sample(row, "row")) for row in rows])
    with backbone.overrides():
        return np.array(backbone.all_logits(batch.tokens, *backbone.embed(batch)))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "mllama", "idefics3", "aya_vision", "mistral3"])
def test_both_spellings_are_one_model(family: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A checkpoint whose config.json says the same in the words of transformers 5 has the same logits."""
    config = json.loads((checkpoint(family) / "config.json").read_text())
    config.get("text_config", config)["rope_theta"] = THETA
    older = copy_checkpoint(checkpoint(family), tmp_path / "older", config)
    folder = copy_checkpoint(checkpoint(family), tmp_path / "newer", spell_anew(config))
    expected = logits(older)
    assert not np.allclose(expected, logits(checkpoint(family)), atol=1e-2)
    np.testing.assert_array_equal(logits(folder), expected)
    files = models.find_model(ModelSection(path=str(folder)))
    assert files.is_translated
    assert files.config_differs_upstream


def test_misreading_would_show(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Without the translation mlx-vlm falls back to its default theta: the case that all this is for."""
    config = json.loads((checkpoint("idefics3") / "config.json").read_text())
    config["text_config"]["rope_theta"] = THETA
    folder = copy_checkpoint(checkpoint("idefics3"), tmp_path / "newer", spell_anew(config))
    files = models.find_model(ModelSection(path=str(folder)))
    untranslated = attrs.evolve(files, config=json.loads((folder / "config.json").read_text()), is_translated=False)
    assert not np.allclose(logits(folder, untranslated), logits(folder), atol=1e-2)


def test_end_of_a_run_says_what_mlx_vlm_would_misread(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed command is mlx-vlm's own, which reads the folder without vlora."""
    config = json.loads((checkpoint("mllama") / "config.json").read_text())
    folder = copy_checkpoint(checkpoint("mllama"), tmp_path / "newer", spell_anew(config))
    picture(48, 32).save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "What is it?", "answer": "red"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    for base, is_said in ((checkpoint("mllama"), False), (folder, True)):
        keys: dict[str, Any] = {
            "model.path": base,
            "data.path": tmp_path / "rows.jsonl",
            "output.path": tmp_path / "out",
        }
        keys |= {"train.iters": 1, "train.batch_size": 1}
        assert main([part for key, value in keys.items() for part in ("--set", f"{key}={value}")]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("mlx-vlm's own programs read another rotary embedding" in said) == is_said
        assert "mlx-vlm generates with a model that differs from the one that was trained: text alone goes" in said


def nest_processor(folder: Path) -> None:
    """Write a processor's files as transformers 5 does: one for all parts, the template in a file of its own."""
    parts = {"preprocessor_config.json": "image_processor", "video_preprocessor_config.json": "video_processor"}
    whole = folder / "processor_config.json"
    settings = json.loads(whole.read_text()) if whole.exists() else {}
    for name, part in parts.items():
        if (folder / name).exists():
            content = json.loads((folder / name).read_text())
            settings.setdefault("processor_class", content.pop("processor_class", None))
            if "max_pixels" in content:
                edges = {"shortest_edge": content.pop("min_pixels"), "longest_edge": content.pop("max_pixels")}
                content["size"] = edges
            settings[part] = content
            (folder / name).unlink()
    whole.write_text(json.dumps(settings))
    template = folder / "chat_template.json"
    if template.exists():
        (folder / "chat_template.jinja").write_text(json.loads(template.read_text())["chat_template"])
        template.unlink()
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("deepseek_vl_v2", "kimi_vl")])
def test_processors_of_transformers_5_are_the_same(
    family: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Where a processor's settings and template lie changes neither ids nor images."""
    shutil.copytree(checkpoint(family), tmp_path / "newer")
    nest_processor(tmp_path / "newer")
    row = {"images": [picture(96, 64), picture(32, 64)], "question": "What are they?", "answer": "red and blue"}
    older, newer = (
        load_encoder(folder, train_on_completions=True)(format_sample(row, "row"))
        for folder in (checkpoint(family), tmp_path / "newer")
    )
    assert newer.tokens.tolist() == older.tokens.tolist()
    assert newer.supervised.tolist() == older.supervised.tolist()
    assert newer.inputs.keys() == older.inputs.keys()
    for name, value in older.inputs.items():
        # Images of several sizes come as a list.
        items, others = (found if isinstance(found, list) else [found] for found in (value, newer.inputs[name]))
        for item, other in zip(items, others, strict=True):
            np.testing.assert_array_equal(other, item)
