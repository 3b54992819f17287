"""Measure whole runs: real processes, started with the commands that users type, timed from their start.

    python -m benchmarks.run --kind cpu
    python -m benchmarks.run --kind nvidia --sets mixed,all --repeat 3
    python -m benchmarks.run a.toml b.toml

The first two draw a random model and rows of JPEG images, and compare `python -m vlora`, `python -m mlx_vlm.train` and
TRL's SFTTrainer. The third compares the recipes that are named, with vlora. One JSON line for each run as it ends, then
tables, and as the last line one JSON object. benchmarks/README.md says what is measured.
"""
