"""The named shapes of Qwen3-VL, and the rows that a step takes. Pure: neither mlx nor torch is imported here."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

PATCH, MERGE, CHANNELS, FRAMES = 16, 2, 3, 2
PATCH_VALUES = CHANNELS * FRAMES * PATCH * PATCH
"""Numbers of a patch: an image is given as two equal frames."""

SPECIAL_TOKENS = 16
"""At the end of the vocabulary; text is drawn from those before."""

MARKS = 2
"""Text tokens around an image."""

N_BATCHES = 2
"""Different batches that the steps take in turn."""

SECTIONS_BY_HEAD_WIDTH = {128: [24, 20, 20], 64: [12, 10, 10], 32: [6, 5, 5]}
"""How many of a head's frequencies turn by time, height and width."""


@attrs.frozen(kw_only=True)
class Shape:
    """The sizes of a Qwen3-VL model.

    Attributes:
        width: D, of the language model.
        layers: Of the language model.
        heads: Query heads.
        key_heads: Key and value heads.
        head_width: Of each head.
        hidden: Of the language model's MLPs.
        words: V, the vocabulary.
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

    @property
    def image_token(self) -> int:
        """The token that stands for a piece of an image."""
        return self.words - 10

    @property
    def image_marks(self) -> tuple[int, int]:
        """The tokens before and after an image."""
        return self.words - 8, self.words - 7

    def linears(self) -> dict[str, tuple[int, int]]:
        """Name the adapted layers of one language layer: (inputs, outputs) each."""
        queries, keys = self.heads * self.head_width, self.key_heads * self.head_width
        return {
            "q_proj": (self.width, queries),
            "k_proj": (self.width, keys),
            "v_proj": (self.width, keys),
            "o_proj": (queries, self.width),
            "gate_proj": (self.width, self.hidden),
            "up_proj": (self.width, self.hidden),
            "down_proj": (self.hidden, self.width),
        }

    def config(self) -> dict[str, Any]:
        """Write the model's config.json, in the words of the published ones."""
        start, end = self.image_marks
        return {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "image_token_id": self.image_token,
            "video_token_id": self.words - 9,
            "vision_start_token_id": start,
            "vision_end_token_id": end,
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
                "attention_bias": False,
                "hidden_act": "silu",
                "rope_scaling": {
                    "rope_type": "default",
                    "mrope_section": SECTIONS_BY_HEAD_WIDTH[self.head_width],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": {
                "model_type": "qwen3_vl",
                "depth": self.tower_layers,
                "hidden_size": self.tower_width,
                "intermediate_size": self.tower_hidden,
                "out_hidden_size": self.width,
                "num_heads": self.tower_heads,
                "patch_size": PATCH,
                "in_channels": CHANNELS,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": FRAMES,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": list(self.deepstack),
                "hidden_act": "gelu_pytorch_tanh",
            },
        }


SHAPES: Mapping[str, Shape] = {
    "tiniest": Shape(
        width=64,
        layers=2,
        heads=2,
        key_heads=1,
        head_width=32,
        hidden=128,
        words=320,
        tower_layers=2,
        tower_width=32,
        tower_hidden=64,
        tower_heads=2,
        deepstack=(0,),
        is_tied=True,
    ),
    "tiny": Shape(
        width=128,
        layers=2,
        heads=4,
        key_heads=2,
        head_width=32,
        hidden=256,
        words=4096,
        tower_layers=2,
        tower_width=64,
        tower_hidden=128,
        tower_heads=2,
        deepstack=(0,),
        is_tied=True,
    ),
    "small": Shape(
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
    "2b": Shape(
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
    "8b": Shape(
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
""""2b" and "8b" are Qwen3-VL-2B's and Qwen3-VL-8B's sizes."""


@attrs.frozen(eq=False)
class Row:
    """A row of data as numbers.

    Attributes:
        tokens: i32[T]: text, an image between its marks, text, the answer.
        patches: f32[P, C], the image's.
    """

    tokens: npt.NDArray[np.int32]
    patches: npt.NDArray[np.float32]


@attrs.frozen(kw_only=True)
class Work:
    """The rows of a step, all of one length.

    Attributes:
        rows: Rows of a batch.
        image: Pixels of the side of each row's image, a multiple of 32.
        prompt: Text tokens before the answer, the image's marks included.
        answer: Supervised tokens, the last ones of the row.
    """

    rows: int
    image: int
    prompt: int
    answer: int

    @property
    def side(self) -> int:
        """Patches of an image's side."""
        return self.image // PATCH

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        return self.side**2

    @property
    def n_image_tokens(self) -> int:
        """Tokens that stand for an image."""
        return self.n_patches // MERGE**2

    @property
    def n_tokens(self) -> int:
        """Tokens of a row."""
        return self.n_image_tokens + self.prompt + self.answer

    @property
    def n_read(self) -> int:
        """Tokens of a row that are read: the last one predicts nothing."""
        return self.n_tokens - 1

    def batches(self, shape: Shape) -> list[list[Row]]:
        """Draw the batches: the same for every side."""
        generator = np.random.default_rng(0)
        start, end = shape.image_marks
        before = (self.prompt - MARKS) // 2

        def row() -> Row:
            text = generator.integers(2, shape.words - SPECIAL_TOKENS, self.prompt - MARKS + self.answer)
            image = [start, *[shape.image_token] * self.n_image_tokens, end]
            tokens = np.concatenate([text[:before], image, text[before:]]).astype(np.int32)
            return Row(tokens, generator.standard_normal((self.n_patches, PATCH_VALUES), dtype=np.float32))

        return [[row() for _ in range(self.rows)] for _ in range(N_BATCHES)]
