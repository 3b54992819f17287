"""How the models of mlx-vlm are called, and what they are given."""
