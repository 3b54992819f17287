"""What the JSON files of a model may say: wrong values are named, those of real models are accepted."""

import json
from pathlib import Path
from typing import Any

import mlx_vlm.utils
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import FAMILIES, LARGE_FAMILIES
from tests.checkpoints.layout import Token
from vlora.errors import ModelError
from vlora.models.load.annotations import find_misfits
from vlora.models.load.documents import read_object
from vlora.models.load.schemas import SCHEMAS, find_problems

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


WRONG: list[tuple[str, str, Any, str]] = [
    ("config.json", "hidden_size", -1, "from 1 to"),
    ("config.json", "text_config.num_hidden_layers", 2**31, "from 1 to"),
    ("config.json", "text_config.vocab_size", "32000", "from 1 to"),
    ("config.json", "text_config.intermediate_size", [64, 0], "or a list"),
    ("config.json", "text_config.rms_norm_eps", float("nan"), "finite"),
    ("config.json", "text_config.rope_theta", 0, "greater than 0"),
    ("config.json", "text_config.rope_theta", [10000.0, 0], "greater than 0"),
    ("config.json", "text_config.rope_theta", [10000.0], "greater than 0"),
    ("config.json", "thinker_config.text_config.rope_theta", [10000.0], "greater than 0"),
    ("config.json", "vision_config.rope_theta", [10000.0], "a finite number"),
    ("config.json", "text_config.rope_parameters.factor", "eight", "finite"),
    ("config.json", "thinker_config.text_config.num_attention_heads", 1.5, "from 1 to"),
    ("config.json", "vision_config.patch_size", True, "from 1 to"),
    ("config.json", "vision_config", [1], "an object"),
    ("config.json", "model_type", "../a", "family"),
    ("config.json", "quantization.bits", "4", "from 1 to"),
    ("preprocessor_config.json", "image_std", [0.5, 0.0, 0.5], "greater than 0"),
    ("preprocessor_config.json", "image_std", [None], "greater than 0"),
    ("preprocessor_config.json", "image_mean", [0.5, None], "a finite number"),
    ("preprocessor_config.json", "image_mean", "grey", "finite number"),
    ("preprocessor_config.json", "size", {"height": -3}, "pixels"),
    ("processor_config.json", "image_processor", 3, "an object"),
    ("tokenizer_config.json", "chat_template", 3, "template"),
    ("tokenizer_config.json", "eos_token", ["a"], "a string"),
    ("generation_config.json", "eos_token_id", ["</s>"], "id of a token"),
    ("chat_template.json", "chat_template", [{"name": "a"}], "template"),
    ("model.safetensors.index.json", "weight_map", {"a": "../b.safetensors"}, "within the folder"),
    ("model.safetensors.index.json", "weight_map", {"a": "/etc/b.safetensors"}, "within the folder"),
    ("model.safetensors.index.json", "weight_map", {"a": None}, "within the folder"),
    ("adapter_config.json", "lora_parameters.rank", 0, "must be at least 1"),
    ("adapter_config.json", "lora_parameters.dropout", 1, "less than 1"),
    ("adapter_config.json", "adapted_layers", [3], "a list of strings"),
    ("adapter_config.json", "rank", -4, "an integer from 1"),
    ("adapter_config.json", "alpha", "x", "a finite number"),
    ("adapter_config.json", "dropout", 1, "less than 1"),
    ("adapter_config.json", "base_quantization", {"a.layer": 4}, "each with its bits and group_size"),
    ("adapter_config.json", "base_quantization", {"a.layer": {"bits": "4", "group_size": 64}}, "bits and group_size"),
]


def test_thetas_of_layers_are_those_of_a_model_that_reads_them() -> None:
    """Step 3.7 has one for each layer, also for layers that are left out; fewer than there are layers are refused."""

    def problems(model_type: str, n_thetas: int) -> list[str]:
        text = {"num_hidden_layers": 2, "rope_theta": [1e4] * n_thetas}
        return find_problems({"model_type": model_type, "text_config": text}, SCHEMAS["config.json"])

    assert not problems("step3p7", 2)
    assert not problems("step3p7", 3)
    assert problems("step3p7", 1) == [
        "text_config.rope_theta: found [10000.0], must be a number greater than 0, or one for each of 2 layers"
    ]
    assert problems("gemma3", 2)


@pytest.mark.parametrize(("name", "key", "value", "said"), WRONG)
def test_key_value_and_what_is_expected_are_named(name: str, key: str, value: Any, said: str, tmp_path: Path) -> None:
    """The sentence has the file, the dotted key, the value and what it has to be."""
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    (tmp_path / name).write_text(json.dumps(tree), encoding="utf-8")
    place = key.removesuffix(".factor")
    with pytest.raises(ModelError) as caught:
        read_object(tmp_path / name, ModelError, "model.path")
    words = str(caught.value)
    assert words.startswith(f"model.path: {tmp_path / name}: ")
    assert f"{place}: found" in words
    assert said in words
    assert "\n" not in words


@given(st.sampled_from(sorted(SCHEMAS)), st.data())
def test_nothing_is_asked_of_what_it_could_not_answer(name: str, data: st.DataObject) -> None:
    """Whatever values its keys have, a file is refused in sentences or accepted; none is longer than one reads."""
    keys = [field.name for field in SCHEMAS[name].__attrs_attrs__]  # type: ignore[attr-defined]
    found = data.draw(st.dictionaries(st.sampled_from(keys) | st.text(), VALUES | st.just(float("nan")), max_size=4))
    assert all(0 < len(line) < 1000 for line in find_problems(found, SCHEMAS[name]))


def number_tokens(value: Any) -> Any:
    """Write a number for each token, as the folders of the families have it."""
    if isinstance(value, dict):
        return {key: number_tokens(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [number_tokens(item) for item in value]
    return 3 if isinstance(value, Token) else value


@pytest.mark.parametrize("family", [*FAMILIES, *LARGE_FAMILIES])
def test_files_of_real_models_have_no_problems(family: str) -> None:
    """What the folders of all families say is accepted, and what their classes are given they can mean."""
    for name, found in {**FAMILIES, **LARGE_FAMILIES}[family].files.items():
        if name in SCHEMAS:
            assert find_problems(number_tokens(found), SCHEMAS[name]) == []
    config = number_tokens({**FAMILIES, **LARGE_FAMILIES}[family].files["config.json"])
    package, _ = mlx_vlm.utils.get_model_and_args(config)
    assert list(find_misfits(package, config)) == []
