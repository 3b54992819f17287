"""A configuration is compared with the annotations of mlx-vlm's classes."""

from vlora.models.load.annotations import find_misfits


def test_only_what_no_class_can_mean_is_a_misfit() -> None:
    """Integers for floats, lists for layers and null are published; text for a number is not."""
    from mlx_vlm.models import qwen3_vl

    right = {"text_config": {"rope_theta": 5, "num_key_value_heads": None, "intermediate_size": [1, 2]}}
    assert list(find_misfits(qwen3_vl, right)) == []
    wrong = {"text_config": {"rope_theta": "5"}, "vision_config": {"depth": 2**31}, "image_token_id": {}}
    assert {line.partition(":")[0] for line in find_misfits(qwen3_vl, wrong)} == {
        "text_config.rope_theta",
        "vision_config.depth",
        "image_token_id",
    }
