"""The description of the machine."""

import os

from vlora.doctor.machine import describe_machine


def test_the_machine_is_described() -> None:
    """What a report needs is there: system, versions, device; and of the environment only what MLX and vlora read."""
    machine = describe_machine()

    assert {"machine", "system", "python", "mlx", "mlx-vlm", "transformers", "numpy", "device"} <= set(machine)
    assert machine["device"].startswith("cpu")
    assert not [name for name in machine if name in os.environ and not name.startswith(("MLX_", "VLORA_"))]
