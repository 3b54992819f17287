"""Calls of mlx-vlm's models, their inputs, and corrections that several families share."""
