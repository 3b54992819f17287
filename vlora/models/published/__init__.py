"""Names and layouts that a model's weights are published under, read off mlx-vlm's own renaming."""
