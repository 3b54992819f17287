"""What is particular to Macs, as far as it can be tried without one."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.models import kernels, rope_utils
from mlx_vlm.models.rope_utils import MRoPERotaryEmbedding

from vlora.build import load_data, load_model
from vlora.data.collate import collate
from vlora.data.format.samples import format_sample
from vlora.estimate.stand_ins import attention_on_metal
from vlora.estimate.trace import trace
from vlora.models.backbone import fused as lean_module
from vlora.models.backbone.fused import find_fused_modules, running_fused
from vlora.models.families.registry import FAMILIES, describe_family
from vlora.models.forward.metal_kernels import attend_with_gradient, without_metal_kernels
from vlora.ops import cpu_exp
from vlora.recipe.parse import parse_recipe
from vlora.train.clipping import clip_by_global_norm
from vlora.train.optimizers import make_optimizer
from vlora.train.state import init_state
from vlora.train.step import make_train_step

MOST_ARGUMENTS = 28
"""Of a fused Metal kernel: 31, less the strides, the shape and the number of dimensions of arrays that have gaps."""


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mlx-vlm and vlora believe that there is a Mac's GPU."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "_HAS_METAL", True)
    monkeypatch.setattr(rope_utils, "_HAS_METAL", True)


def widest_kernel(*outputs: mx.array, file: Path) -> int:
    """Give the largest number of inputs and outputs of what `mx.compile` has fused; nothing is computed."""
    mx.export_to_dot(str(file), *outputs)
    text = file.read_text()
    fused = {node for node, label in re.findall(r'\{ (\d+) \[label ="([^"]+)"', text) if label.startswith("Compiled")}
    edges = re.findall(r"^(\S+) -> (\S+)$", text, re.MULTILINE)
    counts = Counter(node for edge in edges for node in edge if node in fused)

    assert counts

    return max(counts.values())


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
def test_kernels_have_few_arguments(
    *, optimizer: str, is_lora: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a GPU's step fuses fits the argument table of a Metal kernel, which MLX does not see to."""
    monkeypatch.setattr(cpu_exp, "has_slow_exponentials", lambda: False)
    monkeypatch.setattr(lean_module, "is_on_cpu", lambda: False)
    how = {"model.full_finetune": False, "model.train_vision": False} if is_lora else {}
    recipe = parse_recipe(
        (Path(__file__).parents[2] / "recipes" / "quickstart.toml").read_text(),
        {"optim.name": optimizer, "output.path": str(tmp_path / "model"), **how},
    )
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    made = make_optimizer(recipe.optim)
    state = init_state(backbone, made)
    rows = [data.encoder(format_sample(data.train.table[number], str(number))) for number in range(2)]
    state, output = make_train_step(backbone, made, max_grad_norm=1.0)(state, collate(rows, 2), 1e-3)
    made_now = [value for _, value in tree_flatten((state.params, state.opt_state)) if isinstance(value, mx.array)]

    assert widest_kernel(*made_now, output.nll_sum, output.grad_norm, file=tmp_path / "step.dot") <= MOST_ARGUMENTS


def test_a_norm_of_many_arrays_is_many_kernels(tmp_path: Path) -> None:
    """The global norm of a hundred arrays is right, and no kernel of it has more inputs than Metal has places."""
    gradients = {str(number): mx.full((3,), float(number)) for number in range(100)}
    _, norm = mx.compile(lambda given: clip_by_global_norm(given, 1.0))(gradients)
    width = widest_kernel(norm, file=tmp_path / "norm.dot")

    assert norm.item() == pytest.approx(sum(3 * number**2 for number in range(100)) ** 0.5)
    assert width <= MOST_ARGUMENTS


@pytest.mark.usefixtures("metal")
def test_training_takes_no_metal_kernels() -> None:
    """While rows are embedded and trained there are none, and afterwards there are."""
    own = mx.fast.scaled_dot_product_attention
    with without_metal_kernels(None):
        assert not mx.metal.is_available()
        assert not kernels._HAS_METAL
        assert not rope_utils._HAS_METAL
        assert mx.fast.scaled_dot_product_attention is not own

    assert mx.metal.is_available()
    assert kernels._HAS_METAL
    assert rope_utils._HAS_METAL
    assert mx.fast.scaled_dot_product_attention is own


@pytest.mark.usefixtures("metal")
def test_a_model_is_trained_without_them(tmp_path: Path) -> None:
    """A step of a model for whose rotations mlx-vlm has a kernel asks for none: there is no Metal here to make it."""
    recipe = parse_recipe(
        (Path(__file__).parents[2] / "recipes" / "quickstart.toml").read_text(),
        {"output.path": str(tmp_path / "model")},
    )
    data = load_data(recipe)
    backbone, _ = load_model(recipe, data.files)
    rotaries = [part for part in backbone.module.modules() if isinstance(part, MRoPERotaryEmbedding)]
    optimizer = make_optimizer(recipe.optim)
    rows = [data.encoder(format_sample(data.train.table[number], str(number))) for number in range(2)]
    batch = collate(rows, 2)
    step = make_train_step(backbone, optimizer, compiled=False)
    state, output = step(init_state(backbone, optimizer), batch, 1e-3)

    assert rotaries
    assert all(rotary.fused_apply for rotary in rotaries)
    assert float(output.grad_norm) > 0
    assert mx.isfinite(state.params[next(iter(state.params))]).all().item()
    with pytest.raises(RuntimeError, match="Metal"):
        mx.eval(backbone.module.language_model(batch.tokens).logits)


def test_every_family_is_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrections of all families, listed or not, take mlx-vlm's kernels away on a Mac, and only there."""
    assert describe_family("mllama") is FAMILIES["mllama"]

    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    for model_type in ("mllama", "not listed"):
        family = describe_family(model_type)
        for correction in (family.forward.embed_overrides, family.forward.train_overrides):
            with correction(None):
                assert not mx.metal.is_available()
        assert mx.metal.is_available()


@pytest.mark.parametrize("mask", [None, "causal"])
@pytest.mark.parametrize("n_queries", [5, 8, 9])
def test_few_queries_are_attended_to_by_operations(mask: str | None, n_queries: int) -> None:
    """Where MLX has no gradient on Metal it is given an array for a mask, and gives the same."""
    queries, keys, values = (
        mx.random.normal((1, 2, length, 64), key=mx.random.key(length)) for length in (n_queries, 12, 12)
    )
    seen: list[Any] = []

    def attend(*inputs: mx.array, mask: Any, **rest: Any) -> mx.array:
        seen.append(mask)
        return mx.fast.scaled_dot_product_attention(*inputs, mask=mask, **rest)

    found = attend_with_gradient(attend, queries, keys, values, scale=0.125, mask=mask)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask=mask)

    assert isinstance(seen[0], mx.array) == (n_queries <= 8)
    assert mx.allclose(found, expected, atol=1e-6).item()


def test_sinks_are_attended_to_by_operations() -> None:
    """MLX has no gradient for sinks on Metal, whatever the length."""
    x = mx.random.normal((1, 2, 16, 64), key=mx.random.key(0))
    seen: list[Any] = []

    def attend(*_: mx.array, mask: Any, **__: Any) -> mx.array:
        seen.append(mask)
        return x

    attend_with_gradient(attend, x, x, x, scale=0.125, mask="causal", sinks=mx.zeros(2))

    assert isinstance(seen[0], mx.array)


@pytest.mark.parametrize("style", ["interleaved", "chunked", "sectioned"])
def test_rotations_are_vloras_own(style: str) -> None:
    """A rotary embedding that mlx-vlm has a Metal kernel for is run without it while a model is trained."""
    rotary = MRoPERotaryEmbedding(16, mrope_section=[4, 2, 2], style=style)
    plain = find_fused_modules(rotary)
    rotary.fused_apply = True
    rotary._compiled_apply = {3: lambda q, k, *_: (q, k), 2: lambda q, k, *_: (q, k)}
    asked: list[tuple[mx.array, mx.array]] = []
    x = mx.random.normal((1, 2, 5, 16), key=mx.random.key(1))
    positions = mx.broadcast_to(mx.arange(5), (3, 1, 5))
    with running_fused(find_fused_modules(rotary)):
        asked.append(rotary.apply_rotary(x, x, positions))
    rotary.fused_apply = False
    with running_fused(plain):
        asked.append(rotary.apply_rotary(x, x, positions))

    assert mx.allclose(asked[0][0], asked[1][0], atol=1e-6).item()
    assert not mx.allclose(asked[0][0], x).item()


def test_a_plan_knows_what_attention_keeps_on_a_mac() -> None:
    """Scores are counted where Metal has no kernel with a gradient, and are not where it has one."""

    def n_scores(width: int, mask: Any) -> int:
        inputs = {name: mx.zeros((2, 4, 48, width)) for name in "qkv"}

        def total(given: dict[str, mx.array]) -> Any:
            def attend(*arrays: mx.array) -> mx.array:
                own = mx.fast.scaled_dot_product_attention
                return attention_on_metal(own, *arrays, scale=1.0, mask=mask).sum()

            return mx.grad(attend, argnums=(0, 1, 2))(*(given[name] for name in "qkv"))

        graph, _ = trace(total, inputs)
        return len([array for array in graph.arrays.values() if array.shape[-2:] == (48, 48)])

    assert n_scores(64, "causal") == 0
    assert n_scores(32, "causal") > 0
    assert n_scores(64, mx.ones((48, 48), dtype=mx.bool_)) > 0
