"""transformers + PEFT: eager, sdpa, fused AdamW on a GPU, batches on the device."""

from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLForConditionalGeneration

from ..cases import LEARNING_RATE, RANK, TARGETS, Case
from ..clock import Clock
from ..shapes import SHAPES, Row, Shape, Work

IGNORED = -100
"""A label that counts for nothing."""


class TorchPeft:
    """Implements `Side`."""

    def __init__(self, case: Case, folder: Path) -> None:
        """Open the model and put the batches onto the device.

        Raises:
            ValueError: The case asks for what is not measured here.
        """
        if case.cached or case.recomputed or case.bits is not None:
            msg = f"{case.name}: transformers + PEFT is measured as it is, in floating point"
            raise ValueError(msg)
        self._on_gpu = torch.cuda.is_available()
        device = "cuda" if self._on_gpu else "cpu"
        dtype = torch.bfloat16 if self._on_gpu else torch.float32
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        model.to(device)
        self.weights_bytes = sum(value.nbytes for value in model.parameters())
        where = r".*language_model.*\.(" + "|".join(TARGETS) + ")"
        self._model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=where))
        self._model.train()
        trained = [value for value in self._model.parameters() if value.requires_grad]
        self.n_trainable = sum(value.numel() for value in trained)
        self._optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=self._on_gpu)
        shape = SHAPES[case.shape]
        self._batches = [stack_rows(rows, case.work, shape, device, dtype) for rows in case.work.batches(shape)]
        self._n_done = 0

    def take(self, n_steps: int) -> float:
        """Take steps; only the last one's loss is waited for."""
        for _ in range(n_steps):
            loss = self._model(**self._batches[self._n_done % len(self._batches)]).loss
            self._n_done += 1
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        last = float(loss.item())
        if self._on_gpu:
            torch.cuda.synchronize()
        return last

    def reset_peak(self) -> None:
        """Forget the peak."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        """Tell the peak of what torch allocated on a GPU; it does not count on a CPU."""
        return int(torch.cuda.max_memory_allocated()) if self._on_gpu else None


def stack_rows(rows: list[Row], work: Work, shape: Shape, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Put rows together as the model takes them."""
    tokens = torch.from_numpy(np.stack([row.tokens for row in rows])).long().to(device)
    labels = tokens.clone()
    labels[:, : -work.answer] = IGNORED
    patches = torch.from_numpy(np.concatenate([row.patches for row in rows]))
    return {
        "input_ids": tokens,
        "labels": labels,
        "attention_mask": torch.ones_like(tokens),
        "pixel_values": patches.to(device, dtype),
        "image_grid_thw": torch.tensor([[1, work.side, work.side]] * work.rows).to(device),
        "mm_token_type_ids": (tokens == shape.image_token).int(),
    }


def open_side(case: Case, folder: Path) -> Clock:
    """Open the side with its clock."""
    return Clock(TorchPeft(case, folder))
