"""What differs between model families, as data, and what mlx-vlm gets wrong, corrected in one place each."""
