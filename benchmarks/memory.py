"""Predicted peak memory of a training step, of a validation and of answers, beside the measured one.

    python -m benchmarks.memory                       # what suits this machine
    python -m benchmarks.memory --cases 'qlora*'
    python -m benchmarks.memory --kind nvidia         # the 2B and 8B shapes; their weights have to fit

Every case is measured in a process of its own: random weights, two steps, the peak of the second; or a validation, or
answers to the tokens before the supervised ones, beside the state of the training. Predicted is what
`python -m vlora plan` says, from the shapes alone. The last line is one JSON object.
"""

import argparse
import fnmatch
import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .shapes import SHAPES, Shape

MIDDLE = Shape(
    width=512,
    layers=8,
    heads=8,
    key_heads=4,
    head_width=64,
    hidden=1536,
    words=16384,
    tower_layers=1,
    tower_width=64,
    tower_hidden=128,
    tower_heads=2,
    deepstack=(),
    is_tied=True,
)
SMALL = attrs.evolve(MIDDLE, width=256, heads=4, key_heads=2, hidden=768, layers=4, words=8192)
BROAD = attrs.evolve(MIDDLE, width=1024, heads=16, key_heads=4, hidden=3072, layers=4)
RECOMPUTED: Mapping[str, Any] = {"train.grad_checkpoint": True}
TOLERANCE = 0.15


@attrs.frozen(kw_only=True)
class Case:
    """One step.

    Attributes:
        shape: The model's sizes.
        rows: Rows of the batch.
        tokens: Tokens of a row.
        supervised: Of them at the end.
        dtype: Of the weights.
        keys: Keys of the recipe.
        phase: What is run: "step", "validation" or "answers".
    """

    shape: Shape
    rows: int
    tokens: int
    supervised: int
    dtype: str
    keys: Mapping[str, Any] = attrs.field(factory=dict)
    phase: str = "step"


def _ordinary() -> dict[str, Case]:
    small = Case(shape=SMALL, rows=2, tokens=257, supervised=96, dtype="float32")
    middle = attrs.evolve(small, shape=MIDDLE, rows=1, tokens=513)
    qlora = {"model.quantize_bits": 4}
    full = {"model.full_finetune": True}
    validation = attrs.evolve(small, phase="validation")
    answers = attrs.evolve(small, phase="answers", supervised=16)
    beside = {
        "lora-validation/small": validation,
        "lora-validation/middle-bf16": attrs.evolve(validation, shape=MIDDLE, rows=1, tokens=513, dtype="bfloat16"),
        "full-validation/small-8x129": attrs.evolve(validation, rows=8, tokens=129, keys=full),
        "lora-answers/small": answers,
        "lora-answers/small-16x257": attrs.evolve(answers, rows=16),
        "lora-answers/middle-8x513": attrs.evolve(answers, shape=MIDDLE, rows=8, tokens=513),
        "lora-answers/middle-bf16": attrs.evolve(answers, shape=MIDDLE, rows=8, tokens=513, dtype="bfloat16"),
        "qlora-answers/middle-8x513": attrs.evolve(answers, shape=MIDDLE, rows=8, tokens=513, keys=qlora),
        "full-answers/middle-bf16": attrs.evolve(answers, shape=MIDDLE, tokens=513, dtype="bfloat16", keys=full),
        "lora-answers/small-drawn": attrs.evolve(answers, rows=16, keys={"eval.temperature": 1.0}),
    }
    return {
        **beside,
        "lora/small": small,
        "lora/small-4x129": attrs.evolve(small, rows=4, tokens=129),
        "lora/middle": middle,
        "lora/middle-1x1025": attrs.evolve(middle, tokens=1025),
        "lora/middle-bf16": attrs.evolve(middle, dtype="bfloat16"),
        "lora/broad": attrs.evolve(middle, shape=BROAD),
        "lora-recomputed/small": attrs.evolve(small, keys=RECOMPUTED),
        "lora-recomputed/middle": attrs.evolve(middle, keys=RECOMPUTED),
        "lora-recomputed/middle-1x1025": attrs.evolve(middle, tokens=1025, keys=RECOMPUTED),
        "lora-recomputed/broad-bf16": attrs.evolve(middle, shape=BROAD, dtype="bfloat16", keys=RECOMPUTED),
        "lora-every-2nd/middle": attrs.evolve(middle, keys={**RECOMPUTED, "train.checkpoint_every": 2}),
        "lora-mlp/middle": attrs.evolve(middle, keys={**RECOMPUTED, "train.checkpoint_part": "mlp"}),
        "qlora/middle": attrs.evolve(middle, keys=qlora),
        "qlora-recomputed/middle": attrs.evolve(middle, keys={**qlora, **RECOMPUTED}),
        "qlora-recomputed/broad-bf16": attrs.evolve(
            middle, shape=BROAD, dtype="bfloat16", keys={**qlora, **RECOMPUTED}
        ),
        "full/small": attrs.evolve(small, keys=full),
        "full/middle": attrs.evolve(middle, keys=full),
        "full-recomputed/middle": attrs.evolve(middle, keys={**full, **RECOMPUTED}),
        "full/middle-bf16": attrs.evolve(middle, dtype="bfloat16", keys=full),
    }


def _large() -> dict[str, Case]:
    two = Case(shape=SHAPES["2b"], rows=16, tokens=513, supervised=192, dtype="bfloat16", keys={"lora.rank": 16})
    eight = attrs.evolve(two, shape=SHAPES["8b"], rows=1, tokens=2049, supervised=512)
    qlora = {"lora.rank": 16, "model.quantize_bits": 4}
    return {
        "lora/2b-16x513": two,
        "lora-recomputed/2b-16x513": attrs.evolve(two, keys={**two.keys, **RECOMPUTED}),
        "qlora/2b-16x513": attrs.evolve(two, keys=qlora),
        "lora-answers/2b-16x513": attrs.evolve(two, phase="answers", supervised=64),
        "lora/2b-4x1601": attrs.evolve(two, rows=4, tokens=1601, supervised=512),
        "qlora-recomputed/8b-1x2049": attrs.evolve(eight, keys={**qlora, **RECOMPUTED}),
    }


KINDS = {"cpu": _ordinary, "nvidia": _large}


def run_case(case: Case, *, only_predict: bool = False) -> dict[str, Any]:
    """Predict and measure one case."""
    import vlora  # noqa: F401 - before mlx: it binds a fast BLAS

    # isort: split
    import mlx.core as mx

    from vlora import parse_recipe
    from vlora.estimate.phases import plan_answers, plan_validation
    from vlora.estimate.planner import Planner
    from vlora.memory.limits import memory_limit, set_buffer_limits

    recipe = parse_recipe("", {"data.path": "none", "eval.max_new_tokens": case.supervised, **case.keys})
    set_buffer_limits(recipe.memory)
    batch, prompts = _make_rows(case)
    began = time.perf_counter()
    planner = Planner(recipe, _make_backbone(case, recipe, is_abstract=True), memory_limit())
    if case.phase == "step":
        parts = planner.parts(batch)
    elif case.phase == "validation":
        parts = {case.phase: plan_validation(planner, batch, "").nbytes}
    else:
        parts = {case.phase: plan_answers(planner, prompts, case.supervised, "").nbytes}
    predicted = sum(parts.values()) / 1e9
    result = {
        "predicted_gb": predicted,
        "plan_s": round(time.perf_counter() - began, 1),
        "parts_gb": {name: round(nbytes / 1e9, 4) for name, nbytes in parts.items()},
    }
    if only_predict:
        return result
    del planner
    gc.collect()
    # What the process held before: nothing, but in a test.
    held = mx.get_active_memory()
    measured = (_measure(case, recipe, batch, prompts) - held) / 1e9
    return {**result, "measured_gb": measured, "ratio": round(predicted / measured, 3)}


def _make_rows(case: Case) -> tuple[Any, list[Any]]:
    """Make the batch, and the same as questions that are followed by what is supervised."""
    import numpy as np

    from vlora import Example, collate, models

    def row(number: int) -> Example:
        tokens = np.random.default_rng(number).integers(2, case.shape.words - 20, case.tokens).astype(np.int32)
        return Example(
            source=f"row {number}",
            tokens=tokens,
            supervised=np.arange(case.tokens) >= case.tokens - case.supervised,
            placeholders=np.zeros(case.tokens, dtype=np.bool_),
        )

    batch = collate([row(number) for number in range(case.rows)])
    return batch, [models.Prompt(example, case.tokens - case.supervised) for example in batch.rows]


def _make_backbone(case: Case, recipe: Any, *, is_abstract: bool) -> Any:
    """Make the model with what is trained of it."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_vlm.models import qwen3_vl

    from vlora import models
    from vlora.models.families.registry import describe_family
    from vlora.models.load.loading import prepare

    dtype = getattr(mx, case.dtype)
    module = qwen3_vl.Model(qwen3_vl.ModelConfig.from_dict(case.shape.config()))
    module.update(tree_map(lambda value: value.astype(dtype), module.parameters()))
    backbone, quantized = prepare(module, describe_family("qwen3_vl"), recipe.model, is_abstract=is_abstract)
    if recipe.model.full_finetune:
        models.unfreeze_language(backbone)
    else:
        models.add_lora(backbone, recipe.lora, seed=0, quantized=quantized)
    return backbone


def _measure(case: Case, recipe: Any, batch: Any, prompts: Sequence[Any]) -> int:
    """Run a case on random weights, and give MLX's peak in bytes."""
    import mlx.core as mx

    from vlora import init_state, make_optimizer, make_train_step, unbind
    from vlora.estimate.measure import run_answers, run_validation
    from vlora.models import answer_options

    backbone = _make_backbone(case, recipe, is_abstract=False)
    mx.eval(backbone.module.parameters())
    optimizer = make_optimizer(recipe.optim)
    state = init_state(backbone, optimizer)
    mx.eval(state)
    unbind(backbone)
    if case.phase == "validation":
        return run_validation(backbone, state, batch)
    if case.phase == "answers":
        return run_answers(backbone, state, prompts, answer_options(recipe, 0))
    train = recipe.train
    step = make_train_step(
        backbone,
        optimizer,
        grad_checkpoint=train.grad_checkpoint,
        checkpoint_every=train.checkpoint_every,
        checkpoint_part=train.checkpoint_part,
    )
    for _ in range(2):
        mx.synchronize()
        mx.reset_peak_memory()
        state, output = step(state, batch, 1e-4)
        mx.eval(state, output)
    return int(mx.get_peak_memory())


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict and measure every case, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, default="cpu")
    parser.add_argument("--cases", default="*", help="patterns of names, separated by commas")
    parser.add_argument("--predict", action="store_true", help="only predict")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    cases = KINDS[options.kind]()
    if options.only:
        print(json.dumps(run_case(cases[options.only], only_predict=options.predict)))
        return 0
    chosen = [name for name in cases if any(fnmatch.fnmatch(name, one) for one in options.cases.split(","))]
    results: dict[str, dict[str, Any]] = {}
    for name in chosen:
        command = [sys.executable, "-m", "benchmarks.memory", "--kind", options.kind, "--only", name]
        run = subprocess.run(
            [*command, *(["--predict"] if options.predict else [])], capture_output=True, text=True, check=False
        )
        lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
        reason = (run.stderr.strip().splitlines() or ["nothing said"])[-1]
        results[name] = json.loads(lines[-1]) if lines and not run.returncode else {"failed": reason}
        figures = {key: value for key, value in results[name].items() if key != "parts_gb"}
        print(f"{name:<34}{json.dumps(figures)}", flush=True)
    ratios = [result["ratio"] for result in results.values() if "ratio" in result]
    worst = max((abs(ratio - 1) for ratio in ratios), default=0.0)
    print(json.dumps({"system": platform.platform(), "worst": round(worst, 3), "cases": results}))
    return int(worst > TOLERANCE or any("failed" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
