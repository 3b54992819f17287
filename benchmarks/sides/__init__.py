"""Whose steps are measured: vlora, mlx-vlm's trainer, transformers + PEFT. Each is opened in a process of its own."""

from typing import Protocol


class Side(Protocol):
    """An opened side, made of a case and the folder of its model: takes optimizer steps over the case's batches."""

    n_trainable: int
    """Trained parameters."""

    weights_bytes: int
    """Of the model without what is trained."""

    def take(self, n_steps: int) -> float:
        """Take steps as the side's own loop does, wait for the device, and give the last one's loss."""

    def reset_peak(self) -> None:
        """Forget the peak of memory so far."""

    def peak_bytes(self) -> int | None:
        """Most memory in use since then; None where it cannot be told."""
