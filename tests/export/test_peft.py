"""Adapters become PEFT's: the same update of every weight, and a configuration that says all of it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.arrays import load_arrays
from tests.checkpoints import build_checkpoint
from tests.export.adapters import write_adapter, write_base
from tests.families import FAMILIES
from vlora import init_state, make_optimizer, models, save_adapter
from vlora.errors import ModelError
from vlora.export import peft
from vlora.export.foreign import import_adapter
from vlora.export.peft import _apart_from_experts, _whole_modules, to_peft, write_peft
from vlora.export.programs import export
from vlora.export.saved import open_saved
from vlora.models.published.links import Link
from vlora.models.published.peft_layout import BEFORE, PeftArrays
from vlora.models.published.places import Places
from vlora.models.published.transformers_names import find_transformers_names
from vlora.output.base_identity import KEY
from vlora.recipe.schema import LoraSection, OptimSection


def test_every_weight_is_changed_alike(tmp_path: Path) -> None:
    """The update of each of transformers' weights is that of the model's, by alpha / r as PEFT scales it."""
    saved = open_saved(str(write_adapter(tmp_path, rank=3, alpha=5.0, targets=("language", "vision", "connector"))))
    made = to_peft(saved)
    assert set(made.config["target_modules"]) == {
        link.other.removesuffix(".weight") for links in made.places.links.values() for link in links
    }
    scale = made.config["lora_alpha"] / made.config["r"]
    for layer, factors in saved.layers.items():
        (link,) = made.places.links[f"{layer}.weight"]
        name = f"base_model.model.{link.other.removesuffix('.weight')}"
        update = made.arrays[f"{name}.lora_B.weight"] @ made.arrays[f"{name}.lora_A.weight"]
        np.testing.assert_allclose(scale * update, saved.scale * (factors.a @ factors.b).T, rtol=1e-5, atol=1e-7)
    assert "model.visual.blocks.0.attn.qkv" in made.outside


def test_a_tied_table_is_named_twice(tmp_path: Path) -> None:
    """PEFT ties the copies of the embeddings only where it is told to, and both are there."""
    own = write_adapter(tmp_path, rank=2, targets=("q_proj",), train_embeddings=True, train_head=True)
    made = to_peft(open_saved(str(own)))
    assert made.config["ensure_weight_tying"]
    assert made.config["modules_to_save"] == ["model.language_model.embed_tokens", "lm_head"]
    tables = [made.arrays[f"base_model.model.{name}.weight"] for name in made.config["modules_to_save"]]
    np.testing.assert_array_equal(tables[0], tables[1])


def test_experts_are_stacks_of_transformers(tmp_path: Path) -> None:
    """Ranks of what is joined add up, and the configuration says so of each."""
    made = to_peft(open_saved(str(write_adapter(tmp_path, "qwen3_vl_moe", rank=2, alpha=4.0, targets=("experts",)))))
    parameters = made.config["target_parameters"]
    assert {name.rpartition(".")[2] for name in parameters} == {"gate_up_proj", "down_proj"}
    ranks = {name: made.config["rank_pattern"].get(name.replace(".", r"\."), made.config["r"]) for name in parameters}
    assert {name.rpartition(".")[2]: rank for name, rank in ranks.items()} == {"gate_up_proj": 4, "down_proj": 2}
    assert sum(".experts.base_layer.lora_A" in name for name in made.arrays) == len(parameters) // 2


def test_experts_that_transformers_turns_have_its_own_axes(tmp_path: Path) -> None:
    """Qwen3-VL's are published with inputs before outputs, and transformers loads them the other way round."""
    saved = open_saved(str(write_adapter(tmp_path, "qwen3_vl_moe", rank=2, targets=("experts",))))
    width = saved.files.config["text_config"]["hidden_size"]
    inner = saved.files.config["text_config"]["moe_intermediate_size"]
    made = to_peft(saved)
    sizes = {
        name.partition(".experts.")[2]: (value.shape[1] if "lora_A" in name else value.shape[0])
        for name, value in made.arrays.items()
    }
    assert (sizes["base_layer.lora_A.weight"], sizes["base_layer.lora_B.weight"]) == (width, 2 * inner)
    assert (sizes["lora_A.weight"], sizes["lora_B.weight"]) == (inner, width)


def test_experts_of_a_converted_base_need_the_published_one(tmp_path: Path) -> None:
    """mlx-vlm's stacks have no name elsewhere: nothing is written under it."""
    file = build_checkpoint("qwen3_vl_moe", tmp_path / "model") / "model.safetensors"
    mx.save_safetensors(str(file), load_arrays(file), {"format": "mlx"})
    own = write_adapter(tmp_path, model=tmp_path / "model", rank=2, targets=("experts",))
    with pytest.raises(ModelError, match=r"published name is not found .* with --base"):
        to_peft(open_saved(str(own)))


def write_untrained(name: str, folder: Path, *targets: str) -> Path:
    """Write a family's base in mlx-vlm's names and an adapter of some of its layers beside it; give its folder."""
    backbone = write_base(name, folder / "base")
    config = models.add_lora(backbone, LoraSection(rank=2, targets=targets), seed=0, quantized={})
    assert backbone.base is not None
    config |= {KEY: backbone.base.dump(), "base_model": str(folder / "base")}
    params = init_state(backbone, make_optimizer(OptimSection())).params
    save_adapter(folder / "own" / "adapters.safetensors", params, config)
    return folder / "own"


def test_layers_of_a_converted_base_whose_names_are_guesses_need_the_published_one(tmp_path: Path) -> None:
    """Step 3.7's tower has one projection in mlx-vlm and three in transformers, whose rows lie in another order."""
    own = write_untrained("step3p7", tmp_path, "vision")
    with FAMILIES["step3p7"].while_building():
        saved = open_saved(str(own))
    with pytest.raises(ModelError, match=r"in_proj, whose published name is not found .* with --base"):
        to_peft(saved)


def test_layers_that_transformers_has_not_are_refused(tmp_path: Path) -> None:
    """Granite 4 Vision has dense layers there, and those of a hybrid Granite would be named as nothing is."""
    own = write_untrained("granite4_vision", tmp_path, "mlp")
    with pytest.raises(ModelError, match=r"shared_mlp\.\w+_linear, and transformers' model .* has no such layer"):
        to_peft(open_saved(str(own)))


def test_models_that_a_script_rewrites_have_the_names_of_that_layout(tmp_path: Path) -> None:
    """No published Florence-2 is opened by transformers' loading alone; export says which base goes with its folder."""
    own = write_untrained("florence2", tmp_path, "language", "vision")
    exported = export(str(own), "peft")
    config = json.loads((exported.folder / "adapter_config.json").read_text())

    assert {name.partition(".layers.")[0].partition(".blocks.")[0] for name in config["target_modules"]} == {
        "model.language_model.encoder",
        "model.language_model.decoder",
        "model.vision_tower",
    }
    assert "florence-community/Florence-2-base" in exported.notes[-1]
    back = load_arrays(import_adapter(str(exported.folder)).folder / "adapters.safetensors")
    written = load_arrays(own / "adapters.safetensors")
    assert back.keys() == written.keys()
    assert all(mx.array_equal(back[name], written[name]) for name in written)


@pytest.mark.parametrize(
    ("family", "kind", "target", "published"),
    [
        ("deepseekocr_2", "DeepseekOCR2ForCausalLM", "q_proj", "model.layers.0.self_attn.q_proj"),
        ("unlimited_ocr", "UnlimitedOCRForCausalLM", "q_proj", "model.layers.0.self_attn.q_proj"),
        (
            "ernie4_5_moe_vl",
            "Ernie4_5_VLMoeForConditionalGeneration",
            "q_proj",
            "model.layers.0.self_attn.q_proj",
        ),
        ("molmo2", "Molmo2ForConditionalGeneration", "att_proj", "model.transformer.blocks.0.self_attn.att_proj"),
    ],
)
def test_layers_have_published_names_for_vllm_where_it_knows_no_others(
    family: str, kind: str, target: str, published: str, tmp_path: Path
) -> None:
    """PEFT's folder has transformers' names, of which vLLM's class would find no layer, and says nothing."""
    own = write_untrained(family, tmp_path, target)
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": [kind]}))
    with FAMILIES[family].while_building():
        exported = {program: export(str(own), program) for program in ("vllm", "peft")}
    names = {
        program: json.loads((one.folder / "adapter_config.json").read_text())["target_modules"]
        for program, one in exported.items()
    }
    assert published in names["vllm"]
    assert not any("language_model" in name for name in names["vllm"])
    assert all(name.startswith("model.language_model.layers.") for name in names["peft"])
    assert any("published names" in note for note in exported["vllm"].notes)


def test_tables_that_have_a_norm_in_transformers_are_refused() -> None:
    """PEFT would ask for the norm of Inkling's table too, which is no part of what was trained."""
    box = (slice(0, 4), slice(0, 3))
    name, other = "language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"
    links = {name: (Link(name, box, other, box, (0, 1), (4, 3)),)}
    places = Places(links=links, shapes={}, tied={}, names=None, is_converted=False)
    whole = {name: np.zeros((4, 3))}
    saved: Any = SimpleNamespace(whole=whole, path="file", files=SimpleNamespace(model_type="inkling"))
    with pytest.raises(ModelError, match="with the norm beside it"):
        _whole_modules(saved, places)


def test_layers_that_nothing_reads_are_left_out(tmp_path: Path) -> None:
    """Gemma 3n's last layers share keys and values, and have no projections of their own in transformers."""
    own = write_untrained("gemma3n", tmp_path, "k_proj", "v_proj")
    file = own / "adapters.safetensors"
    arrays = {name: mx.random.normal(value.shape) for name, value in load_arrays(file).items()}
    mx.save_safetensors(str(file), arrays)
    with FAMILIES["gemma3n"].while_building():
        exported = export(str(own), "peft")
        back = load_arrays(import_adapter(str(exported.folder)).folder / "adapters.safetensors")
    # Of four layers that have their own and two that share.
    assert exported.n_layers == 2 * 4
    assert exported.notes[0].startswith("4 layers left out that nothing reads")
    left_out = [f"layers.{layer}.self_attn.{kind}_proj" for layer in (4, 5) for kind in "kv"]
    assert {name for name in arrays if name not in back} == {
        name for name in arrays if any(f".{layer}." in name for layer in left_out)
    }
    assert len(back) == 2 * 2 * 4
    assert all(mx.array_equal(value, arrays[name]) for name, value in back.items())


def test_the_folder_appears_whole(tmp_path: Path) -> None:
    """What is written is read back."""
    made = to_peft(open_saved(str(write_adapter(tmp_path, rank=2, method="dora", targets=("q_proj",)))))
    write_peft(made, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["use_dora"], config["peft_type"], config["r"]) == (True, "LORA", 2)
    written = load_arrays(tmp_path / "peft" / "adapter_model.safetensors")
    assert {name: value.shape for name, value in written.items()} == {
        name: value.shape for name, value in made.arrays.items()
    }


def test_layers_that_peft_takes_for_experts_are_named_as_parameters() -> None:
    """Of such architectures PEFT looks at the last part of a module's name only; DoRA is refused."""
    laid = PeftArrays(arrays={}, modules={"m.gate_proj": 2, "m.q_proj": 4}, parameters={"m.experts.down_proj": 8})
    taken = frozenset({"gate_proj"})
    plain: Any = SimpleNamespace(is_dora=False, path="file")
    found = _apart_from_experts(laid, plain, taken)
    assert found.modules == {"m.q_proj": 4}
    assert found.parameters == {"m.experts.down_proj": 8, "m.gate_proj.weight": 2}
    dora: Any = SimpleNamespace(is_dora=True, path="file")
    with pytest.raises(ModelError, match=r"DoRA on m\.gate_proj, which PEFT takes for a part of its experts"):
        _apart_from_experts(laid, dora, taken)
    names = find_transformers_names({"model_type": "glm4v_moe"})
    assert names is not None
    assert "gate_proj" in names.taken_for_experts


@pytest.mark.parametrize("program", ["transformers", "mlx-vlm"])
def test_what_a_program_computes_in_its_own_way_is_to_be_fused(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are permuted or split on loading have no place, nor have sums: a published base gives none."""
    saved = open_saved(str(write_adapter(tmp_path, "qwen3_vl", rank=2, targets=("attention",))))
    names = find_transformers_names({"model_type": "qwen3_vl"}) if program == "transformers" else None
    nowhere = Places(links={}, shapes={}, tied={}, names=names, is_converted=False)
    monkeypatch.setattr(peft, "find_places", lambda *_, **__: nowhere)
    with pytest.raises(ModelError, match=rf"{program} computes of published .* its own; `python -m vlora fuse`"):
        to_peft(saved)


def test_a_tower_that_was_trained_whole_is_saved_whole(tmp_path: Path) -> None:
    """Its arrays stand in transformers' layout beside the factors, each in a module that the configuration names."""
    own = write_adapter(tmp_path, "qwen3_vl", train_vision=True, rank=2, targets=("attention",))
    trained = load_arrays(own / "adapters.safetensors")
    made = to_peft(open_saved(str(own)))
    whole = {name.removeprefix(BEFORE): value for name, value in made.arrays.items() if ".visual." in name}
    assert len(whole) == sum(name.startswith("vision_tower.") for name in trained) > 0
    modules = made.config["modules_to_save"]
    assert [name for name in whole if not any(name.startswith(f"{module}.") for module in modules)] == []
    norm = trained["vision_tower.blocks.0.norm1.weight"]
    np.testing.assert_array_equal(whole["model.visual.blocks.0.norm1.weight"], np.array(norm))


def test_qwen3_omni_is_exchanged_as_its_thinker(tmp_path: Path) -> None:
    """PEFT adapts that part of the model, whose names lack the part's; nothing changes on the way back."""
    own = write_untrained("qwen3_omni_moe", tmp_path, "attention", "vision")
    (base,) = (tmp_path / "base").glob("*.safetensors")
    published = {"thinker.language_model.model.": "thinker.model.", "thinker.vision_tower.": "thinker.visual."}
    published["thinker.language_model.lm_head"] = "thinker.lm_head"
    weights = {}
    for name, value in load_arrays(base).items():
        begin = next((begin for begin in published if name.startswith(begin)), "")
        renamed = published.get(begin, "") + name.removeprefix(begin)
        weights[renamed.replace("deepstack_merger_list", "merger_list")] = value
    mx.save_safetensors(str(base), weights, {"format": "pt"})
    file = own / "adapters.safetensors"
    arrays = {name: mx.random.normal(value.shape) for name, value in load_arrays(file).items()}
    mx.save_safetensors(str(file), arrays)
    exported = export(str(own), "peft")
    written = load_arrays(exported.folder / "adapter_model.safetensors")
    assert {".".join(name.removeprefix(BEFORE).split(".")[:2]) for name in written} == {
        "model.language_model",
        "model.visual",
    }
    assert exported.usage[0].startswith("PeftModel.from_pretrained(Qwen3OmniMoeThinkerForConditionalGeneration.")
    back = load_arrays(import_adapter(str(exported.folder)).folder / "adapters.safetensors")
    assert back.keys() == arrays.keys()
    assert all(mx.array_equal(value, arrays[name]) for name, value in back.items())
