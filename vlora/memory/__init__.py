"""`[memory]`: what MLX may take, and how much work it hands to a GPU at once."""
