"""Parameters are counted as the model that was published has them."""

from mlx import nn

from vlora.ops.parameters import count_parameters


def test_packed_weights_count_for_what_they_stand_for() -> None:
    """Quantized or not, a model has the same number; scales are none of them, and a bias is one."""
    model = nn.Sequential(nn.Embedding(64, 128), nn.Linear(128, 96), nn.LayerNorm(96))
    expected = 64 * 128 + 128 * 96 + 96 + 2 * 96

    assert count_parameters(model) == expected
    for bits in (4, 8):
        packed = nn.Sequential(nn.Embedding(64, 128), nn.Linear(128, 96), nn.LayerNorm(96))
        nn.quantize(packed, group_size=32, bits=bits)
        assert count_parameters(packed) == expected
