"""Targets against real models: what each kind of name matches, and what is said of one that matches nothing."""

import re
from functools import cache

import attrs
import pytest
from mlx import nn

from tests.families import FAMILIES, build
from vlora.adapters.model_parts import ModelParts
from vlora.adapters.targets import GROUPS, is_experts, is_head, is_router, resolve_target_modules
from vlora.errors import ModelError
from vlora.models.backbone.parts import find_layout
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import find_prefix
from vlora.recipe.schema import LoraSection

SOME = ["qwen3_vl_moe", "llava", "ernie4_5_moe_vl", "minicpmv4_6", "molmo", "phi3_v", "qwen3_omni_moe"]


@cache
def opened(name: str) -> tuple[nn.Module, ModelParts]:
    """Build a tiny model and say where its parts lie."""
    tiny = FAMILIES[name]
    family = describe_family(str(tiny.config["model_type"]))
    model = build(tiny)
    return model, find_layout(family, find_prefix(model, family))


def found(name: str, *targets: str, **settings: object) -> list[str]:
    """Find targets in a tiny model."""
    return resolve_target_modules(*opened(name), LoraSection(targets=targets, **settings))  # type: ignore[arg-type]


def group(name: str, target: str) -> list[str]:
    """Find a group's layers; none if the model has none."""
    try:
        return found(name, target)
    except ModelError:
        return []


@pytest.mark.parametrize("family", SOME)
def test_every_layer_belongs_to_one_part(family: str) -> None:
    """Language, vision and connector are apart, and together they are all linear layers, head and routers excepted."""
    parts = [set(group(family, name)) for name in ("vision", "connector")]
    model, layout = opened(family)
    modules = dict(model.named_modules())
    language = {
        name
        for name, module in modules.items()
        if layout.is_language(name)
        and (isinstance(module, nn.Linear) or is_experts(module))
        and not is_router(name)
        and not is_head(name)
    }

    assert parts[0]
    assert parts[1]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & language
    assert not any(re.search("audio|talker|code2wav", name) for part in parts for name in part)
    default = set(found(family))
    assert default <= language
    inside = {name for name in language if re.search(r"\.\d+\.", name)}
    assert default >= inside


@pytest.mark.parametrize("family", SOME)
def test_groups_divide_the_language_model(family: str) -> None:
    """Attention, MLPs and experts are apart and cover the language model's layers."""
    attention, mlp, experts = (set(group(family, name)) for name in ("attention", "mlp", "experts"))
    model, _ = opened(family)
    modules = dict(model.named_modules())

    assert attention
    assert mlp or experts
    assert not attention & mlp
    assert not experts & (attention | mlp)
    assert all(is_experts(modules[name]) for name in experts)
    assert not any(is_experts(modules[name]) for name in attention | mlp)
    assert attention | mlp | experts >= {name for name in found(family) if re.search(r"\.\d+\.", name)}


def test_routers_and_heads_are_matched_by_name_only() -> None:
    """An adapter on a router moves tokens between experts: only who names it gets it."""
    names = found("qwen3_vl_moe", "gate")

    assert names
    assert all(is_router(name) for name in names)
    assert not any(is_router(name) or is_head(name) for name in found("qwen3_vl_moe", "re:language_model.*"))
    assert not any(is_router(name) or is_head(name) for name in found("llava", "all-linear"))
    assert found("qwen3_vl_moe", "lm_head") == ["language_model.lm_head"]
    ernie = "ernie4_5_moe_vl"  # which has a second one, of the experts for images
    assert found(ernie, "gate_1")
    assert not any(name.endswith(".gate_1") for name in found(ernie, "re:language_model.*"))


def test_names_suffixes_and_patterns() -> None:
    """A whole name, a suffix, a suffix of two parts, and a pattern over whole names."""
    every = found("llava", "q_proj")

    assert all(name.startswith("language_model.") for name in every)
    assert found("llava", every[0]) == every[:1]
    assert found("llava", "self_attn.q_proj") == every
    assert found("llava", r"re:language_model\..*\.q_proj") == every
    assert set(found("llava", "re:.*q_proj")) > set(every), "a pattern sees the tower too"
    assert found("llava", "linear_1") == ["multi_modal_projector.linear_1"]
    assert set(found("llava", "q_proj", "connector")) == {*every, *found("llava", "connector")}


def test_last_layers() -> None:
    """Only the last layers of the language model, and what lies outside of its layers."""
    every = found("llava", "q_proj")

    assert found("llava", "q_proj", last_layers=1) == every[-1:]
    assert set(found("llava", "q_proj", "vision", last_layers=1)) == {every[-1], *found("llava", "vision")}
    with pytest.raises(ModelError, match=rf"lora\.last_layers: found 99, but the language model has {len(every)} lay"):
        found("llava", last_layers=99)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("q_prj", ["'q_prj' matches no linear layer", "near: q_proj"]),
        ("atention", ["near: attention"]),
        ("re:q_proj", ["'re:q_proj' matches no layer", "whole name"]),
        ("experts", ["no layers of the group 'experts'"]),
    ],
)
def test_a_target_that_matches_nothing_is_an_error(target: str, words: list[str]) -> None:
    """The message names what is near."""
    with pytest.raises(ModelError) as error:
        found("llava", "q_proj", target)

    assert all(word in str(error.value) for word in ["lora.targets", *words])


def test_experts_and_what_goes_with_them() -> None:
    """Experts are adapted by default, not by DoRA, and not together with what mlx-vlm could not load beside them."""
    model, layout = opened("qwen3_vl_moe")
    modules = dict(model.named_modules())
    experts = found("qwen3_vl_moe", "experts")

    assert experts
    assert set(experts) < set(found("qwen3_vl_moe"))
    assert not any(is_experts(modules[name]) for name in found("qwen3_vl_moe", method="dora"))
    with pytest.raises(ModelError, match="names experts together with"):
        found("qwen3_vl_moe", "experts", "connector")
    without = attrs.evolve(layout, without_experts="they are packed")
    assert not set(experts) & set(resolve_target_modules(model, without, LoraSection()))
    with pytest.raises(ModelError, match="get no adapters: they are packed"):
        resolve_target_modules(model, without, LoraSection(targets=("experts",)))


def test_untouchable_layers_are_left_alone() -> None:
    """A layer whose weights the model reads itself gets no adapter, even by name."""
    model, layout = opened("llava")
    layout = attrs.evolve(layout, no_adapter=("q_proj",))

    assert not any(name.endswith("q_proj") for name in resolve_target_modules(model, layout, LoraSection()))
    with pytest.raises(ModelError, match="'q_proj' matches no linear layer"):
        resolve_target_modules(model, layout, LoraSection(targets=("q_proj",)))


def test_groups_are_those_that_a_recipe_names() -> None:
    """README lists the same."""
    assert set(GROUPS) == {"language", "vision", "connector", "experts", "attention", "mlp", "all-linear"}
