"""Kernels that MLX compiles: their folder, and compilation of the known ones before they are needed."""
