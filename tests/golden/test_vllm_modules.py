"""Modules are read from a class's source, through lists, functions, bases and what bases are told."""

from pathlib import Path

import pytest

from .vllm_modules import Class, Modules
from .vllm_source import Source

SOURCE = """
class LinearBase: pass
class Joined(LinearBase): pass

class Mlp:
    def __init__(self):
        self.gate_up_proj = Joined()
        self.down_proj = LinearBase()
        self.act = Mlp

class Layer:
    def __init__(self, layer_type=None):
        self.mlp = Mlp()

class Other(Layer):
    def __init__(self):
        super().__init__()
        self.mixer = nn.Sequential(LinearBase(), nn.GELU())

KINDS = {"other": Other, "layer": Layer}

def make(count, made): return made

class Language:
    packed_modules_mapping = {}
    made = Layer

    def __init__(self, layer_type=Layer, joins=False):
        if joins:
            self.packed_modules_mapping["qkv_proj"] = ["q_proj", "k_proj"]
        self.first = self.made()
        self.start, self.layers = make(2, lambda prefix: layer_type(prefix))

class Told(Language):
    def __init__(self):
        def chosen(prefix): return KINDS["other"](prefix)
        super().__init__(layer_type=chosen)

class Model:
    packed_modules_mapping = {"gate_up_proj": ["gate_proj", "up_proj"]}

    def __init__(self):
        self.language_model = self._language()

    def _language(self):
        found = Told()
        return found
"""


@pytest.fixture
def modules(tmp_path: Path) -> Modules:
    folder = tmp_path / "model_executor" / "models"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text(SOURCE)
    (folder / "registry.py").write_text("_MULTIMODAL_MODELS = {}\n_TEXT_GENERATION_MODELS = {}\n")
    return Modules(Source(tmp_path), Class("Model", folder / "one.py"), frozenset())


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        ("language_model.layers.0.mlp.down_proj", True),
        ("language_model.layers.0.mlp.up_proj", True),
        ("language_model.layers.1.mixer.0", True),
        ("language_model.layers.0.mlp.gate_up_proj", True),
        ("language_model.first.mlp.down_proj.base_layer", True),
        ("language_model.first.mlp.0.down_proj", True),
        ("language_model.layers.0.mlp.qkv", False),
        ("language_model.model.layers.0.mlp.down_proj", False),
        ("layers.0.mlp.down_proj", False),
    ],
)
def test_a_name_is_followed_through_the_classes(modules: Modules, name: str, is_there: bool) -> None:
    """A part of a joined layer is there if the class lists it; a place that no class makes is not."""
    assert modules.reach(name, modules.packed()) is is_there


def test_layers_that_are_joined_for_some_configurations(modules: Modules) -> None:
    """They are added to the class's own as it is made."""
    language = Class("Language", modules.root.file)
    assert Modules(modules.source, language, frozenset()).packed() == {"qkv_proj": ["q_proj", "k_proj"]}


def test_a_member_has_several_parts(modules: Modules) -> None:
    """An expert's layer is one of the stack's; of an expert that is not listed nothing is found."""
    packed = {"gate_up_proj": ["experts.0.up_proj"]}
    assert modules.reach("language_model.layers.0.mlp.experts.0.up_proj", packed)
    assert not modules.reach("language_model.layers.0.mlp.experts.1.up_proj", packed)


def test_parts_that_no_class_lists_are_not_there(modules: Modules) -> None:
    """Of a joined layer only the whole is known by its name then."""
    assert not modules.reach("language_model.layers.0.mlp.up_proj", {})
    assert {"gate_up_proj", "down_proj", "mixer"} <= set(modules.supported())
    assert not modules.has_experts()
