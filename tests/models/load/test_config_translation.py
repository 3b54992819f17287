"""Checkpoints of transformers 4 and 5 are the same model; what cannot be is refused."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
from mlx import nn

from tests.arrays import load_arrays
from tests.checkpoints import FAMILIES
from tests.training import picture
from vlora import collate, format_sample, models
from vlora.cli.main import main
from vlora.errors import ModelError
from vlora.models.load.config_translation import find_scaling, read_fields, translate_config
from vlora.models.load.rope_scaling import scale_rotations
from vlora.models.load.weights import rename_parameters, turn_experts
from vlora.recipe.schema import DataSection, ModelSection

THETA = 17.0  # far from every default, so that another one shows
Config = dict[str, Any]


def translate(model_type: str, config: Config) -> Config:
    """Translate for a family's own classes."""
    package = importlib.import_module(f"mlx_vlm.models.{model_type}")
    return translate_config(config, model_type, read_fields(package), "a model")


def newer(**text: Any) -> Config:
    """Write the part of a config.json of transformers 5.23 that matters here."""
    return {"text_config": {"hidden_size": 64, **text}, "vision_config": {"model_type": "some_vision"}}


DEFAULT = {"rope_theta": THETA, "rope_type": "default"}
LLAMA3 = {"factor": 8.0, "rope_theta": THETA, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MROPE = {"mrope_section": [6, 5, 5], "rope_theta": THETA, "rope_type": "default"}
PER_TYPE = {
    "full_attention": {"factor": 8.0, "rope_theta": THETA, "rope_type": "linear"},
    "sliding_attention": {"rope_theta": 37.0, "rope_type": "default"},
}


@pytest.mark.parametrize(
    ("family", "rope", "expected"),
    [
        *(
            (family, DEFAULT, {"rope_theta": THETA})
            for family in ("llava", "idefics3", "smolvlm", "mistral3", "internvl")
        ),
        ("lfm2_vl", DEFAULT, {"rope_theta": THETA, "rope_parameters": DEFAULT}),
        ("mllama", LLAMA3, {"rope_theta": THETA, "rope_scaling": {"factor": 8.0, "type": "llama3"}}),
        ("qwen3_vl", MROPE, {"rope_theta": THETA, "rope_scaling": {"mrope_section": [6, 5, 5], "type": "default"}}),
        ("glm4v", {**MROPE, "partial_rotary_factor": 0.5}, {"rope_theta": THETA, "partial_rotary_factor": 0.5}),
        (
            "gemma3",
            PER_TYPE,
            {
                "rope_global_base_freq": THETA,
                "rope_local_base_freq": 37.0,
                "rope_scaling": {"factor": 8.0, "type": "linear"},
            },
        ),
        ("gemma3n", PER_TYPE, {"rope_theta": THETA, "rope_local_base_freq": 37.0}),
    ],
)
def test_rotary_embedding_is_spelled_as_the_family_reads_it(family: str, rope: Config, expected: Config) -> None:
    """Each family gets theta and scaling under the names that its class has."""
    text = translate(family, newer(rope_parameters=rope))["text_config"]
    for key, value in expected.items():
        found = text[key]
        assert found == value if not isinstance(value, dict) else value.items() <= found.items()


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


def test_other_keys_follow() -> None:
    """Experts, sliding layers, tied tables and towers keep their meaning too."""
    mixture = translate("qwen3_vl_moe", newer(rope_parameters=MROPE, num_local_experts=4, tie_word_embeddings=True))
    assert mixture["text_config"]["num_experts"] == 4
    tower = {"vision_config": {"attention_heads": 2}}
    assert translate("mllama", newer(rope_parameters=DEFAULT) | tower)["vision_config"]["num_attention_heads"] == 2
    layers = {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 16, "num_key_value_heads": 2}
    gemma = translate("gemma4", newer(rope_parameters=PER_TYPE, per_layer_config={"1": {"head_dim": 32}}, **layers))
    assert gemma["text_config"]["global_head_dim"] == 32
    assert gemma["text_config"]["num_global_key_value_heads"] == 2
    tied = translate("qwen3_vl_moe", newer(rope_parameters=MROPE) | {"tie_word_embeddings": False})
    assert tied["text_config"]["tie_word_embeddings"] is False
    types = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    sliding = translate("aya_vision", newer(rope_parameters=DEFAULT, layer_types=types))
    assert sliding["text_config"]["sliding_window_pattern"] == 3
    tower = translate("pixtral", newer() | {"vision_config": {"rope_parameters": {**DEFAULT, "rope_type": "axial"}}})
    assert tower["vision_config"]["rope_theta"] == THETA
    omni = translate("qwen3_omni_moe", {"thinker_config": newer(rope_parameters=MROPE)})
    assert omni["thinker_config"]["text_config"]["rope_theta"] == THETA


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("llava", newer(rope_parameters=PER_TYPE), "full_attention, sliding_attention"),
        ("idefics3", newer(rope_parameters={**LLAMA3, "rope_type": "yarn"}), "yarn"),
        ("llava", newer(rope_parameters={**DEFAULT, "partial_rotary_factor": 0.5}), "0.5"),
        ("aya_vision", newer(rope_parameters=DEFAULT, layer_types=["full_attention", "sliding_attention"]), "order"),
        (
            "gemma4",
            newer(
                rope_parameters=PER_TYPE, per_layer_config={"0": {"head_dim": 32}}, layer_types=["sliding_attention"]
            ),
            "per_layer_config",
        ),
        ("qwen3_vl", newer(rope_parameters=MROPE) | {"vision_config": {"rope_parameters": DEFAULT}}, "tower"),
    ],
)
def test_what_a_family_has_no_field_for_is_refused(family: str, config: Config, said: str) -> None:
    """Nothing is dropped in silence."""
    with pytest.raises(ModelError, match=said):
        translate(family, config)


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


LINEAR = {"rope_type": "linear", "factor": 4.0}
SHORT_LLAMA3 = {**LLAMA3, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(("family", "scaling"), [("idefics3", SHORT_LLAMA3), ("idefics2", LINEAR), ("smolvlm", LINEAR)])
def test_scaling_is_put_in_where_mlx_vlm_drops_it(
    family: str, scaling: Config, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Families whose classes have no field for a scaling have it all the same, in either spelling."""
    config = json.loads((checkpoint(family) / "config.json").read_text())
    config["text_config"]["rope_theta"] = THETA
    plain = copy_checkpoint(checkpoint(family), tmp_path / "plain", config)
    config["text_config"]["rope_scaling"] = {key: value for key, value in scaling.items() if key != "rope_theta"}
    older = copy_checkpoint(checkpoint(family), tmp_path / "older", config)
    folder = copy_checkpoint(checkpoint(family), tmp_path / "newer", spell_anew(config))
    assert not np.allclose(logits(older), logits(plain), atol=1e-2)
    np.testing.assert_array_equal(logits(folder), logits(older))
    for path, config_differs_upstream in ((plain, False), (older, True), (folder, True)):
        assert models.find_model(ModelSection(path=str(path))).config_differs_upstream == config_differs_upstream
    section = ModelSection(path=str(older))
    backbone, _ = models.load_backbone(models.find_model(section), section)
    kinds = {type(layer.self_attn.rope).__name__ for layer in backbone.layers}
    assert kinds == {"Llama3RoPE" if scaling is SHORT_LLAMA3 else "RoPE"}
    if scaling is LINEAR:
        assert {layer.self_attn.rope.scale for layer in backbone.layers} == {1 / 4}


def test_scaling_that_mlx_vlm_has_is_left_to_it() -> None:
    """Nothing is scaled twice; what cannot be scaled is refused, in words that name the model."""

    class Layers(nn.Module):
        def __init__(self, *rotations: nn.Module) -> None:
            super().__init__()
            self.rotations = [Layer(rotation) for rotation in rotations]

    class Layer(nn.Module):
        def __init__(self, rotation: nn.Module) -> None:
            super().__init__()
            self.rope = rotation

    scaling = find_scaling({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": THETA})
    assert scaling is not None
    model = Layers(nn.RoPE(8, base=THETA), nn.RoPE(8, base=THETA, scale=1 / 8))
    scale_rotations(model, scaling, "a model")
    assert [layer.rope.scale for layer in model.rotations] == [1.0, 1 / 8]
    model = Layers(nn.RoPE(8, base=THETA), nn.RoPE(8, base=THETA))
    with pytest.raises(ModelError, match="'a model' scales its rotary embedding \\(yarn\\)"):
        scale_rotations(model, {**scaling, "type": "yarn"}, "a model")
    scale_rotations(model, scaling, "a model")
    assert [(layer.rope.scale, layer.rope.base) for layer in model.rotations] == [(1 / 4, THETA)] * 2
    assert find_scaling({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}) is None
    assert find_scaling({"rope_scaling": None}) is None


def test_families_that_know_the_newer_words_are_not_said_to_misread_them(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """LFM2-VL's classes read `rope_parameters` themselves."""
    config = json.loads((checkpoint("lfm2_vl") / "config.json").read_text())
    folder = copy_checkpoint(checkpoint("lfm2_vl"), tmp_path / "newer", spell_anew(config))
    assert not models.find_model(ModelSection(path=str(folder))).config_differs_upstream


@pytest.mark.parametrize("family", ["llava", "mistral3"])
def test_newer_names_of_parameters_load(family: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Towers of transformers 5 are no longer `vision_model` within `vision_tower`."""
    config = json.loads((checkpoint(family) / "config.json").read_text())
    folder = copy_checkpoint(checkpoint(family), tmp_path / "newer", spell_anew(config))
    weights = load_arrays(folder / "model.safetensors")
    renamed = {name.replace("vision_tower.vision_model.", "vision_tower."): value for name, value in weights.items()}
    assert renamed.keys() != weights.keys()
    assert rename_parameters(renamed).keys() == weights.keys()
    mx.save_safetensors(str(folder / "model.safetensors"), renamed)
    np.testing.assert_array_equal(logits(folder), logits(checkpoint(family)))


def test_experts_are_turned() -> None:
    """A mixture's experts come as they were published, in whichever way they lie."""
    config = {"text_config": {"hidden_size": 4}}
    gate_up, down = mx.arange(2 * 4 * 6).reshape(2, 4, 6), mx.arange(2 * 3 * 4).reshape(2, 3, 4)
    published = {"a.experts.gate_up_proj": gate_up, "a.experts.down_proj": down, "a.gate.weight": mx.zeros((2, 4))}
    newer = {name: value.swapaxes(1, 2) if value.ndim > 2 else value for name, value in published.items()}
    for weights in (published, newer):
        turned = turn_experts(weights, config)
        assert all(mx.array_equal(turned[name], value) for name, value in published.items())


def test_fully_fine_tuned_model_is_written_in_words_that_mlx_vlm_reads(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """What full fine-tuning of such a base writes needs no translation."""
    config = json.loads((checkpoint("mllama") / "config.json").read_text())
    config["text_config"]["rope_theta"] = THETA
    folder = copy_checkpoint(checkpoint("mllama"), tmp_path / "newer", spell_anew(config))
    section = ModelSection(path=str(folder))
    files = models.find_model(section)
    backbone, _ = models.load_backbone(files, section)
    (tmp_path / "saved").mkdir()
    models.save_model(backbone, files, tmp_path / "saved")
    assert not models.find_model(ModelSection(path=str(tmp_path / "saved"))).is_translated
    assert mlx_vlm.load(str(tmp_path / "saved"))[0].config.text_config.rope_theta == THETA
    np.testing.assert_array_equal(logits(tmp_path / "saved"), logits(folder))


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
        said = capsys.readouterr().out
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
