"""What is compared, as data: families, rows, runs. Read by both sides, so it needs neither MLX nor torch.

To add a family, give it an entry in `CASES`; tests/checkpoints has to know how to write its tiny checkpoint.
"""

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]

STEPS = 10
RANK = 4
ALPHA = 8
BITS, GROUP_SIZE = 4, 32
PROJECTIONS = 8
IMAGE = "<image>"
PIXELS = 1e-5
"""Largest difference of pixel values that is rounding."""

# ---------------------------------------------------------------------------------------------
# Families


@dataclass(frozen=True, kw_only=True)
class Case:
    """What sets a family apart when it is compared.

    Attributes:
        renames: Regular expressions and replacements, applied in order, which turn the names in the checkpoint that
            tests/checkpoints writes into those of the published one; none if it writes those already.
        convolutions: Matches the (published) names of convolutions that the checkpoint holds channels-last.
        fused_experts: Whether the published checkpoint holds all experts' gate and up projections in one array.
        reference_config: Entries of config.json that transformers wants otherwise than mlx-vlm.
        rows: Names of the rows that the family can read.
        string_answers: Whether its template wants the assistant's content as a string.
        own_template: Why vlora writes the conversation otherwise than the published template, None if it does not.
        flat_images: Whether transformers' processor is given a row's images as a list of images, not of rows.
        language: What transformers calls the language model, where it has nothing else of the family: only that is
            compared, on rows that vlora embeds.
        has_suffix: Whether transformers' processor is given the question and the answer apart, without a template.
        patch_size: Of the patches, padded to one number, that transformers' processor cuts images into, and mlx-vlm's
            does not; None if both do the same.
        reads_videos: Whether transformers' processor has parts for videos that are left out, and must not be missing.
        logit_scale: What transformers' logits have to be multiplied by.
        pixels: Largest difference that is allowed between the pixel values of both processors.
        untrained: Matches mlx-vlm's names of parameters that no run trains, though transformers holds them too.
        unread: Matches mlx-vlm's names of weights that nothing reads, and that transformers does not hold.
        skipped: Runs that make no sense here, and why.
        differs: Runs in which mlx-vlm's model is known to compute something else, and what.
        remarks: What a reader of the table has to know besides.
    """

    renames: tuple[tuple[str, str], ...] = ()
    convolutions: str | None = None
    fused_experts: bool = False
    reference_config: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[str, ...] = ("one", "two", "text", "turns", "wide", "words")
    string_answers: bool = False
    own_template: str | None = None
    flat_images: bool = False
    language: str | None = None
    has_suffix: bool = False
    patch_size: int | None = None
    reads_videos: bool = False
    logit_scale: float | None = None
    pixels: float = PIXELS
    untrained: str | None = None
    unread: str | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def is_untrained(self, name: str) -> bool:
        """Whether no run trains a parameter of mlx-vlm's, or a module's, by its name."""
        return any(pattern and re.search(pattern, f"{name}.") for pattern in (self.untrained, self.unread))

    def is_unread(self, name: str) -> bool:
        """Whether nothing reads a parameter of mlx-vlm's, by its name."""
        return self.unread is not None and re.search(self.unread, name) is not None

    @property
    def has_frozen_tower(self) -> bool:
        """Whether no run trains the vision tower; each image then goes through it once, for all rows and runs."""
        return self.is_untrained("vision_tower")


_QWEN2 = Case(
    renames=(
        (r"^vision_tower\.", "visual."),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model."),
    ),
    convolutions=r"patch_embed\.proj\.weight$",
)
_QWEN3 = Case(
    renames=(
        (r"^vision_tower\.", "model.visual."),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model.language_model."),
    ),
    convolutions=r"patch_embed\.proj\.weight$",
)
_IDEFICS3 = Case(
    renames=(
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.", "model.text_model."),
        (r"^(vision_model|connector)\.", r"model.\1."),
    ),
    convolutions=r"patch_embedding\.weight$",
)
_GEMMA4 = Case(patch_size=4, reads_videos=True)
# It reads an image in every row, and writes one answer.
_PALIGEMMA = Case(rows=("one", "two", "wide", "pair", "tall", "other"), has_suffix=True)
_LANGUAGE_ONLY = {"full": "transformers has only the family's language model; the others are on rows that vlora embeds"}
_PIXTRAL = ((r"^vision_tower\.vision_model\.", "vision_tower."),)

CASES: Mapping[str, Case] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": Case(renames=_QWEN3.renames, convolutions=_QWEN3.convolutions, fused_experts=True),
    "qwen3_5": Case(),
    "llava": Case(convolutions=r"patch_embedding\.weight$"),
    "pixtral": Case(
        renames=_PIXTRAL,
        convolutions=r"patch_conv\.weight$",
        # Published as a LLaVA whose tower is Pixtral's.
        reference_config={"model_type": "llava"},
        string_answers=True,
    ),
    "mistral3": Case(renames=_PIXTRAL, convolutions=r"patch_conv\.weight$", string_answers=True),
    "mllama": Case(renames=((r"^vision_tower\.", "vision_model."),), convolutions=r"patch_embedding\.weight$"),
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3,
    "llava_next": Case(own_template="the published one misspells the token that ends an answer"),
    "llava_onevision": Case(
        own_template="the published one asks for an answer in other words than it writes one",
        # In a nested list transformers gives each of several images one small view, which mlx-vlm's processor cannot.
        flat_images=True,
    ),
    "idefics2": Case(),
    "internvl": Case(
        # Sizes for which mlx-vlm's processor chooses as many tiles as transformers' (internvl_chat/processor.py:72).
        rows=("other", "pair", "text", "turns", "wide", "words"),
        remarks=("on images that both processors cut into as many tiles",),
    ),
    "aya_vision": Case(
        logit_scale=0.25,
        remarks=("transformers' AyaVision leaves out the scale that its Cohere 2 has behind the head; it is added",),
    ),
    "glm4v": Case(string_answers=True),
    "deepseek_vl_v2": Case(
        language="deepseek_v2",
        skipped=_LANGUAGE_ONLY,
    ),
    "kimi_vl": Case(language="deepseek_v3", skipped=_LANGUAGE_ONLY),
    "lfm2_vl": Case(
        pixels=2.1 / 255,
        remarks=("without torchvision, transformers' own processor resizes with Pillow, which rounds otherwise",),
    ),
    "gemma3": Case(),
    "gemma3n": Case(
        untrained=r"^(vision_tower|audio_tower|embed_audio)\.",
        unread=r"\.layers\.[45]\.self_attn\.[kv]_(proj|norm)\.",
        remarks=("its tower is the published one, of 294 million parameters, and frozen in all runs",),
    ),
    "gemma4": _GEMMA4,
    "gemma4_moe": _GEMMA4,
    "paligemma": _PALIGEMMA,
    "paligemma2": _PALIGEMMA,
}

# ---------------------------------------------------------------------------------------------
# Rows


@dataclass(frozen=True)
class Row:
    """A conversation.

    Attributes:
        turns: Role and text of each turn; `IMAGE` stands in the text where an image is shown.
        sizes: Width and height of each image, in pixels.
    """

    turns: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[int, int], ...] = ()

    def images(self) -> list[Image.Image]:
        """Draw the images: noise over a gradient, another for every size and place."""
        drawn = []
        for place, (width, height) in enumerate(self.sizes):
            noise = np.random.default_rng((width, height, place)).integers(0, 128, (height, width, 3))
            slope = np.linspace(0, 127, width)[None, :, None] * np.ones((height, 1, 3))
            drawn.append(Image.fromarray((noise + slope).astype(np.uint8)))
        return drawn

    def as_dataset_row(self) -> dict[str, Any]:
        """Write the conversation as a row of a data set for vlora."""
        messages = [{"role": role, "content": text} for role, text in self.turns]
        return {"images": self.images(), "messages": messages} if self.sizes else {"messages": messages}

    def as_messages(self, *, string_answers: bool) -> list[dict[str, Any]]:
        """Write the conversation as transformers' processors take it."""
        messages = []
        for role, text in self.turns:
            parts: list[dict[str, str]] = []
            for place, piece in enumerate(text.split(IMAGE)):
                parts += [{"type": "image"}] * (place > 0)
                parts += [{"type": "text", "text": piece}] * bool(piece)
            as_string = string_answers and role == "assistant"
            messages.append({"role": role, "content": text if as_string else parts})
        return messages


# The number of supervised tokens is far apart on purpose: a mean of means is then far from the mean over targets.
ROWS: Mapping[str, Row] = {
    "one": Row((("user", "<image>What is it?"), ("assistant", "a red square")), ((48, 32),)),
    "two": Row(
        (
            ("user", "<image><image>How many of them are there?"),
            ("assistant", "There are three of them, and a small blue circle."),
        ),
        ((48, 32), (32, 64)),
    ),
    "text": Row((("user", "Say hi"), ("assistant", "hi"))),
    "turns": Row(
        (
            ("user", "<image>Read the text."),
            ("assistant", "The sky is yellow."),
            ("user", "Is it?"),
            ("assistant", "yes or no"),
        ),
        ((64, 64),),
    ),
    "wide": Row((("user", "<image>Describe the picture."), ("assistant", "no")), ((70, 33),)),
    "words": Row((("user", "Answer the question."), ("assistant", "The house is under the sky, and it is green."))),
    "pair": Row(
        (("user", "<image><image>How many are there?"), ("assistant", "There are three of them.")), ((40, 40), (70, 33))
    ),
    "tall": Row((("user", "<image>And this?"), ("assistant", "a yellow house in the field")), ((33, 70),)),
    "other": Row((("user", "<image>Say what you see."), ("assistant", "hi there")), ((40, 40),)),
    "longer": Row(
        (("user", "<image>How many?"), ("assistant", "There are three of them, and a small blue circle.")), ((32, 32),)
    ),
}

# ---------------------------------------------------------------------------------------------
# Runs


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run trains.

    Attributes:
        meaning: What it is, for the table's readers.
        trains: "qv" or "linears" of the language model get an adapter, or "everything" is trained.
        optimizer: Its name in a recipe.
        settings: What the optimizer is told, by the names of a recipe.
        max_norm: What the gradient's global norm is clipped to, if it is.
        is_quantized: Whether the language model is quantized; the reference trains on the dequantized weights.
        steps: For each step, for each microbatch, which of a case's rows; repeated until there are `STEPS`.
        whole: Whether the trained arrays are stored whole; otherwise a fingerprint of each is.
    """

    meaning: str
    trains: str
    optimizer: str
    settings: Mapping[str, Any]
    max_norm: float | None = None
    is_quantized: bool = False
    steps: tuple[tuple[tuple[int, ...], ...], ...]
    whole: bool = False

    def schedule(self) -> list[tuple[tuple[int, ...], ...]]:
        """List the rows of each microbatch of each step."""
        return [self.steps[step % len(self.steps)] for step in range(STEPS)]

    @property
    def batch_size(self) -> int:
        """Rows of the largest microbatch; the others are filled up."""
        return max(len(rows) for step in self.steps for rows in step)


_TOGETHER = (((0, 1, 2),), ((3, 4, 5),))
# An epsilon of 1e-6, because Adam divides a gradient by its own size: where the true one is (almost) zero, the
# rounding errors of float32, near 1e-9 here, would otherwise become whole steps, and no two libraries would agree.
_ADAM = {"learning_rate": 1e-2, "betas": (0.9, 0.999), "eps": 1e-6}

RUNS: Mapping[str, Run] = {
    "qv": Run(
        meaning="LoRA on the language model's q and v projections, AdamW",
        trains="qv",
        optimizer="adamw",
        settings={**_ADAM, "weight_decay": 0.01},
        steps=_TOGETHER,
        whole=True,
    ),
    "linears": Run(
        meaning="LoRA on all its linear layers (no experts), Adam, clipped norm, accumulation of unequal microbatches",
        trains="linears",
        optimizer="adam",
        settings=_ADAM,
        max_norm=1.0,
        steps=(((0, 1), (2,)), ((3, 5), (4,))),
    ),
    "qlora": Run(
        meaning="LoRA on all its linear layers, 4-bit weights, AdamW; the reference trains on the dequantized weights",
        trains="linears",
        optimizer="adamw",
        settings={**_ADAM, "weight_decay": 0.01},
        is_quantized=True,
        steps=_TOGETHER,
    ),
    # Plain momentum, because Adam would hide a gradient of the wrong size, and because some parameters have no true
    # gradient at all (the bias of a tower's keys: softmax does not see it), which Adam turns into noise.
    "full": Run(
        meaning="all weights, the vision tower's too, momentum, clipped norm",
        trains="everything",
        optimizer="sgd",
        settings={"learning_rate": 2e-2, "betas": (0.9, 0.999)},
        max_norm=1.0,
        steps=_TOGETHER,
    ),
}

# ---------------------------------------------------------------------------------------------
# What both sides compute alike


def random_numbers(*names: str) -> np.random.Generator:
    """Make the generator that belongs to a name."""
    return np.random.default_rng([zlib.crc32(name.encode()) for name in names])


def initial_adapter(name: str, shape: tuple[int, ...]) -> Array:
    """Draw an adapter's factor: f[inputs, R] for `lora_a`, f[R, outputs] for `lora_b`.

    B is not zero: that would leave A without a gradient in the first step.
    """
    scale = 1 / np.sqrt(shape[-2]) if name.endswith("lora_a") else 0.05
    return (scale * random_numbers("adapter", name).standard_normal(shape)).astype(np.float32)


def shake(name: str, value: Array) -> Array:
    """Make a parameter that is the same everywhere (norms, gates) one of a kind, so that no mix-up goes unseen."""
    if np.ptp(value):
        return value
    noise = random_numbers("shake", name).standard_normal(value.shape)
    return (value + 0.1 * noise).astype(np.float32)


def input_arrays(inputs: Mapping[str, Any]) -> dict[str, Array]:
    """List the arrays among a row's inputs; those of a list by their numbers: images of several sizes."""
    arrays: dict[str, Array] = {}
    for key, value in inputs.items():
        named = {f"{key}.{number}": part for number, part in enumerate(value)} if isinstance(value, list) else {}
        arrays |= {name: part for name, part in (named or {key: value}).items() if hasattr(part, "shape")}
    return arrays


def fingerprint(name: str, change: Array) -> Array:
    """Condense how a parameter changed: its norm, and its products with fixed random directions.

    The products of a difference of two changes are normally distributed with its norm as their deviation: their root
    mean square measures that norm.

    Returns:
        f32[1 + PROJECTIONS].
    """
    flat = change.astype(np.float64).reshape(-1)
    directions = random_numbers("fingerprint", name).standard_normal((PROJECTIONS, flat.size))
    return np.concatenate([[np.linalg.norm(flat)], directions @ flat]).astype(np.float32)


def digest(*arrays: Array) -> str:
    """Name the bytes of some arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]
