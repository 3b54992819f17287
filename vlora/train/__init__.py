"""`[train]` and `[optim]`: the step, its loss, optimizers, schedules, the loop."""
