"""Time the training step of recipes, and on request mlx-vlm's own step on the same rows beside it.

    python -m benchmarks.step recipes/quickstart.toml recipes/quickstart_qlora.toml --peer

Rows are encoded and collated before the clock starts; embedding them is part of the step, as in the first
epoch: no features are kept. The first call of every shape is paid before, and what it costs beyond a step is reported
apart, as trace time. With `--peer` the two take turns, a few steps each, so that a noisy machine
disturbs both.

Nothing of vlora is copied here: what is timed are the functions that `fit` calls. Nothing is saved.
The last line of the output is one JSON object.
"""
