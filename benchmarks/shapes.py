"""The training step on a named model's exact shape with random weights: vlora, mlx-vlm's trainer, transformers + PEFT.

    python -m benchmarks.shapes                          # what suits this machine
    python -m benchmarks.shapes --shape qwen3-vl-2b --rows 16 --image 512 --prompt 257 --answer 192

Nothing is downloaded. Every side takes the same rows and adapts the same layers, each in a process of its own, one
after the other; a side that cannot run here says why. Times are medians of whole steps, the device waited for in each.
MFU: the language model's and the tower's matrix products (6 operations per weight and token where activations get a
gradient through trained adapters, 4 for frozen weights: forward, and backward to the input) over the measured
matmul rate. The last line is one JSON object.
"""

import argparse
import functools
import gc
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 16
N_BATCHES = 2
PUBLISHED_HEAD_WIDTH = 128


@attrs.frozen(kw_only=True)
class Shape:
    """The sizes of a Qwen3-VL model.

    Attributes:
        width: Of the language model.
        layers: Of the language model.
        heads: Query heads.
        key_heads: Key and value heads.
        head_width: Of each head.
        hidden: Of the language model's MLPs.
        words: Vocabulary.
        tower_layers: Of the vision tower.
        tower_width: Of the vision tower.
        tower_hidden: Of the tower's MLPs.
        tower_heads: Of the tower.
        deepstack: Tower layers whose features enter the language model's first layers.
        is_tied: The head is the embedding.
    """

    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    hidden: int
    words: int
    tower_layers: int
    tower_width: int
    tower_hidden: int
    tower_heads: int
    deepstack: tuple[int, ...]
    is_tied: bool

    def config(self) -> dict[str, Any]:
        """Write the model's config.json."""
        sections = [24, 20, 20] if self.head_width == PUBLISHED_HEAD_WIDTH else [6, 5, 5]
        return {
            "model_type": "qwen3_vl",
            "image_token_id": self.words - 10,
            "video_token_id": self.words - 9,
            "vision_start_token_id": self.words - 8,
            "vision_end_token_id": self.words - 7,
            "vocab_size": self.words,
            "tie_word_embeddings": self.is_tied,
            "text_config": {
                "model_type": "qwen3_vl_text",
                "num_hidden_layers": self.layers,
                "hidden_size": self.width,
                "intermediate_size": self.hidden,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.key_heads,
                "head_dim": self.head_width,
                "rms_norm_eps": 1e-6,
                "vocab_size": self.words,
                "rope_theta": 5e6,
                "max_position_embeddings": 32768,
                "tie_word_embeddings": self.is_tied,
                "rope_scaling": {"type": "default", "mrope_section": sections, "mrope_interleaved": True},
            },
            "vision_config": {
                "model_type": "qwen3_vl",
                "depth": self.tower_layers,
                "hidden_size": self.tower_width,
                "intermediate_size": self.tower_hidden,
                "out_hidden_size": self.width,
                "num_heads": self.tower_heads,
                "patch_size": 16,
                "in_channels": 3,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": list(self.deepstack),
            },
        }


SHAPES: Mapping[str, Shape] = {
    "tiny": Shape(
        width=256,
        layers=4,
        heads=4,
        key_heads=2,
        head_width=64,
        hidden=768,
        words=32768,
        tower_layers=4,
        tower_width=128,
        tower_hidden=512,
        tower_heads=4,
        deepstack=(1,),
        is_tied=True,
    ),
    "qwen3-vl-2b": Shape(
        width=2048,
        layers=28,
        heads=16,
        key_heads=8,
        head_width=128,
        hidden=6144,
        words=151936,
        tower_layers=24,
        tower_width=1024,
        tower_hidden=4096,
        tower_heads=16,
        deepstack=(5, 11, 17),
        is_tied=True,
    ),
    "qwen3-vl-8b": Shape(
        width=4096,
        layers=36,
        heads=32,
        key_heads=8,
        head_width=128,
        hidden=12288,
        words=151936,
        tower_layers=27,
        tower_width=1152,
        tower_hidden=4304,
        tower_heads=16,
        deepstack=(8, 16, 24),
        is_tied=False,
    ),
}


@attrs.frozen(kw_only=True)
class Work:
    """What one step does.

    Attributes:
        shape: A key of `SHAPES`.
        rows: Rows of the batch.
        image: Pixels of an image's side.
        prompt: Text tokens of the prompt, the image's two marks included.
        answer: Supervised tokens.
        steps: Measured steps.
        warmup: Steps before.
    """

    shape: str
    rows: int
    image: int
    prompt: int
    answer: int
    steps: int
    warmup: int

    @property
    def n_tokens(self) -> int:
        """Tokens of a row."""
        return (self.image // 32) ** 2 + self.prompt + self.answer

    def batches(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Draw the rows: (i32[T] tokens, f32[P, 1536] patches) each."""
        generator = np.random.default_rng(0)
        words = SHAPES[self.shape].words
        side = self.image // 16

        def row() -> tuple[np.ndarray, np.ndarray]:
            text = generator.integers(10, words - 100, self.prompt + self.answer)
            before = (self.prompt - 2) // 2
            marks = [words - 8], [words - 10] * (side // 2) ** 2, [words - 7]
            tokens = np.concatenate([text[:before], *marks, text[before + 2 :]]).astype(np.int32)
            return tokens, generator.standard_normal((side * side, 1536), dtype=np.float32)

        return [[row() for _ in range(self.rows)] for _ in range(N_BATCHES)]

    def operations(self, *, with_tower: bool) -> float:
        """Count the floating-point operations of a step's matrix products, attention included."""
        shape = SHAPES[self.shape]
        heads = shape.heads * shape.head_width
        layer = shape.width * (2 * heads + 2 * shape.key_heads * shape.head_width + 3 * shape.hidden)
        tokens = self.rows * self.n_tokens
        attention = 2 * shape.heads * shape.head_width * self.n_tokens / 2
        total = tokens * shape.layers * (4 * layer + 2 * 3 * attention) + self.rows * self.answer * 4 * (
            shape.width * shape.words
        )
        if with_tower:
            patches = (self.image // 16) ** 2
            tower = shape.tower_width * (4 * shape.tower_width + 2 * shape.tower_hidden)
            mixing = 2 * shape.tower_width * patches
            total += self.rows * patches * shape.tower_layers * (2 * tower + 2 * mixing)
        return float(total)


def timed(work: Work, step: Callable[[int], float], reset_peak: Callable[[], None]) -> dict[str, Any]:
    """Run the steps: (number) to loss, finished when it returns."""
    seconds, losses = [], []
    for number in range(work.warmup + work.steps):
        if number == work.warmup:
            reset_peak()
        start = time.perf_counter()
        losses.append(step(number))
        seconds.append(time.perf_counter() - start)
    measured = seconds[work.warmup :]
    median = statistics.median(measured)
    return {
        "step_ms": round(median * 1e3, 2),
        "step_ms_min": round(min(measured) * 1e3, 2),
        "step_ms_max": round(max(measured) * 1e3, 2),
        "first_step_s": round(seconds[0], 1),
        "tokens_per_s": round(work.rows * work.n_tokens / median),
        "first_loss": round(losses[0], 5),
        "last_loss": round(losses[-1], 5),
    }


def make_mlx_model(work: Work, bits: int | None) -> Any:
    """Make the model in mlx, in bfloat16 on a GPU and float32 on a CPU."""
    import vlora  # noqa: F401 - before mlx: it binds a fast BLAS

    # isort: split
    import mlx.core as mx
    from mlx import nn
    from mlx_vlm.models import qwen3_vl

    config = SHAPES[work.shape].config()
    mx.random.seed(0)
    model = qwen3_vl.Model(qwen3_vl.ModelConfig.from_dict(config))
    dtype = mx.float32 if mx.default_device() == mx.Device(mx.cpu) else mx.bfloat16
    model.apply(lambda value: value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value)
    if bits is not None:
        nn.quantize(model.language_model, group_size=64, bits=bits)
    mx.eval(model.parameters())
    return model


def measure_vlora(
    work: Work, *, bits: int | None = None, cached: bool = False, recomputed: bool = False
) -> dict[str, Any]:
    """Measure vlora's step."""
    model = make_mlx_model(work, bits)
    import mlx.core as mx

    from vlora import Example, backend, collate, init_state, make_optimizer, make_train_step
    from vlora.backend import loading
    from vlora.backend.families import describe_family
    from vlora.recipe import LoraSection, ModelSection, OptimSection

    backbone, quantized = loading.prepare(model, describe_family("qwen3_vl"), ModelSection(path="random"))
    backend.add_lora(backbone, LoraSection(rank=RANK, alpha=2.0 * RANK, targets=TARGETS), seed=0, quantized=quantized)
    if cached:
        backbone.keep_features(backend.FeatureCache(memory_bytes=2**40))
    optimizer = make_optimizer(OptimSection(name="adamw", learning_rate=1e-4))
    grid = np.array([[1, work.image // 16, work.image // 16]])
    image_token = SHAPES[work.shape].words - 10

    def example(number: int, tokens: np.ndarray, patches: np.ndarray) -> Any:
        supervised = np.zeros(len(tokens), dtype=bool)
        supervised[-work.answer :] = True
        return Example(
            source=f"row {number}",
            tokens=tokens,
            supervised=supervised,
            placeholders=tokens == image_token,
            inputs={"pixel_values": mx.array(patches), "image_grid_thw": grid},
            image_keys=(f"image {number}",),
        )

    batches = [
        collate([example(index * work.rows + row, *one) for row, one in enumerate(rows)])
        for index, rows in enumerate(work.batches())
    ]
    state = init_state(backbone, optimizer)
    step = make_train_step(backbone, optimizer, grad_checkpoint=recomputed)
    held = state

    def run(number: int) -> float:
        nonlocal held
        held, output = step(held, batches[number % N_BATCHES], 1e-4)
        mx.eval(held, output)
        return float(output.nll_sum / output.n_supervised)

    result = timed(work, run, mx.reset_peak_memory)
    return {**result, "peak_gb": round(mx.get_peak_memory() / 1e9, 2), "traces": step.n_traces}


def measure_mlx_vlm(work: Work, *, bits: int | None = None) -> dict[str, Any]:
    """Measure the step of mlx-vlm's own trainer, as its engine runs it."""
    model = make_mlx_model(work, bits)
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx import nn
    from mlx_vlm.trainer.common.utils import apply_gradient_step
    from mlx_vlm.trainer.peft import get_peft_model
    from mlx_vlm.trainer.vlm.sft.runtime import vlm_sft_loss

    get_peft_model(model, list(TARGETS), rank=RANK, alpha=2 * RANK, dropout=0.0, verbose=False)
    model.train()
    optimizer = optim.AdamW(1e-4)
    optimizer.init(model.trainable_parameters())
    side = work.image // 16

    def batch(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        tokens = mx.array(np.stack([tokens for tokens, _ in rows]))
        mask = mx.broadcast_to(mx.arange(tokens.shape[1]) >= tokens.shape[1] - work.answer, tokens.shape)
        dtype = model.vision_tower.patch_embed.proj.weight.dtype
        return {
            "input_ids": tokens,
            "attention_mask": mx.ones_like(tokens),
            "completion_mask": mask.astype(mx.int32),
            "pixel_values": mx.array(np.concatenate([patches for _, patches in rows])).astype(dtype),
            "image_grid_thw": mx.array([[1, side, side]] * len(rows)),
        }

    batches = [batch(rows) for rows in work.batches()]
    mx.eval(batches)
    gradients = nn.value_and_grad(model, functools.partial(vlm_sft_loss, train_on_completions=True))

    def run(number: int) -> float:
        loss, metrics, held = apply_gradient_step(
            model, optimizer, gradients, batches[number % N_BATCHES], None, update=True, accumulation_steps=1
        )
        mx.eval([model.state, optimizer.state], loss, metrics, held)
        return float(loss)

    result = timed(work, run, mx.reset_peak_memory)
    return {**result, "peak_gb": round(mx.get_peak_memory() / 1e9, 2)}


def measure_torch(work: Work) -> dict[str, Any]:
    """Measure transformers + PEFT: sdpa, fused AdamW, rows and image on the device."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    shape = SHAPES[work.shape].config()
    text = shape["text_config"]
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": text["rope_theta"], **text.pop("rope_scaling")}
    text["rope_parameters"].pop("type")
    config = Qwen3VLConfig(**{name: value for name, value in shape.items() if name != "model_type"})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=dtype)
    where = r".*language_model.*(" + "|".join(TARGETS) + ")"
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=where))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device == "cuda")
    side = work.image // 16

    def batch(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        tokens = torch.tensor(np.stack([tokens for tokens, _ in rows])).long().to(device)
        labels = tokens.clone()
        labels[:, : -work.answer] = -100
        return {
            "input_ids": tokens,
            "labels": labels,
            "attention_mask": torch.ones_like(tokens),
            "pixel_values": torch.tensor(np.concatenate([patches for _, patches in rows])).to(device, dtype),
            "image_grid_thw": torch.tensor([[1, side, side]] * len(rows)).to(device),
            "mm_token_type_ids": (tokens == shape["image_token_id"]).int(),
        }

    batches = [batch(rows) for rows in work.batches()]

    def run(number: int) -> float:
        loss = model(**batches[number % N_BATCHES]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    def reset() -> None:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    result = timed(work, run, reset)
    peak = round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else None
    return {**result, "peak_gb": peak, "version": f"torch {torch.__version__}"}


def measure_matmul(_: Work) -> dict[str, Any]:
    """Measure the machine's rate of matrix products, 8192 wide on a GPU."""
    import vlora  # noqa: F401 - before mlx

    # isort: split
    import mlx.core as mx

    on_gpu = mx.default_device() != mx.Device(mx.cpu)
    size, dtype = (8192, mx.bfloat16) if on_gpu else (2048, mx.float32)
    left, right = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
    mx.eval(left, right)
    rates = []
    for _ in range(8):
        start = time.perf_counter()
        mx.eval([left @ right for _ in range(10 if on_gpu else 1)])
        rates.append(2 * size**3 * (10 if on_gpu else 1) / (time.perf_counter() - start) / 1e12)
    return {"tflops": round(statistics.median(rates[3:]), 2), "device": str(mx.device_info().get("device_name", ""))}


SIDES: Mapping[str, Callable[[Work], dict[str, Any]]] = {
    "matmul": measure_matmul,
    "mlx-vlm": measure_mlx_vlm,
    "torch": measure_torch,
    "vlora": measure_vlora,
    "vlora-cached": functools.partial(measure_vlora, cached=True),
    "vlora-cached-recomputed": functools.partial(measure_vlora, cached=True, recomputed=True),
    "vlora-recomputed": functools.partial(measure_vlora, recomputed=True),
    "mlx-vlm-4bit": functools.partial(measure_mlx_vlm, bits=4),
    "vlora-4bit": functools.partial(measure_vlora, bits=4),
    "vlora-cached-4bit": functools.partial(measure_vlora, bits=4, cached=True),
    "vlora-cached-recomputed-4bit": functools.partial(measure_vlora, bits=4, cached=True, recomputed=True),
}


def measure_apart(side: str, work: Work) -> dict[str, Any]:
    """Measure a side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.shapes", "--only", side]
    for name, value in attrs.asdict(work).items():
        command += [f"--{name}", str(value)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode or not lines:
        reason = (run.stderr.strip().splitlines() or ["nothing said"])[-1]
        return {"failed": reason[:300]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the sides one after the other and compare them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, help="the model's sizes")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--image", type=int, help="pixels of an image's side, a multiple of 32")
    parser.add_argument("--prompt", type=int)
    parser.add_argument("--answer", type=int)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--sides", help=f"of {', '.join(SIDES)}; separated by commas")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    on_gpu = importlib.util.find_spec("mlx") is not None and Path("/proc/driver/nvidia").exists()
    defaults = ("qwen3-vl-2b", 16, 512, 65, 192) if on_gpu else ("tiny", 4, 128, 32, 48)
    given = (options.shape, options.rows, options.image, options.prompt, options.answer)
    values = [value if value is not None else default for value, default in zip(given, defaults, strict=True)]
    names = ("shape", "rows", "image", "prompt", "answer")
    work = Work(**dict(zip(names, values, strict=True)), steps=options.steps, warmup=options.warmup)
    if options.only:
        gc.collect()
        print(json.dumps(SIDES[options.only](work)))
        return 0
    results: dict[str, dict[str, Any]] = {}
    sides = options.sides.split(",") if options.sides else list(SIDES)
    for side in sides:
        results[side] = measure_apart(side, work)
        rate = results.get("matmul", {}).get("tflops")
        if rate and "step_ms" in results[side]:
            operations = work.operations(with_tower="cached" not in side)
            results[side]["mfu"] = round(operations / (results[side]["step_ms"] / 1e3) / (rate * 1e12), 3)
        print(f"{side}: {json.dumps(results[side])}", flush=True)
    speeds = {side: result["tokens_per_s"] for side, result in results.items() if "tokens_per_s" in result}
    ratios = {
        f"{side} / {peer}": round(speed / speeds[peer], 2)
        for side, speed in speeds.items()
        for peer in ("mlx-vlm", "mlx-vlm-4bit", "torch")
        if side.startswith("vlora") and peer in speeds and side.endswith("4bit") == peer.endswith("4bit")
    }
    machine = {"system": platform.platform(), "cpus": os.cpu_count(), "device": results.get("matmul", {}).get("device")}
    print(json.dumps({"work": attrs.asdict(work), "machine": machine, "sides": results, "ratios": ratios}))
    return int(any("failed" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
