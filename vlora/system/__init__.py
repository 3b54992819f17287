"""The operating system: files, private folders, signals, the ends of processes. Knows neither models nor MLX."""
