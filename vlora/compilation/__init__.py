"""Kernels that MLX compiles: where they are kept, and the known ones compiled before they are needed."""
