"""What a user may write, made at random and run: what is wrong is refused in a sentence, what is right is learned.

`python -m benchmarks.fuzz --seed 7` makes inputs of several kinds, each from (seed, kind, number) alone. Each says what
is to come of it before it runs. It runs in a process of its own, through the same function as `python -m vlora`.

- `trials`: what an input is, and what may come of it
- `server`: runs inputs in forks of a process that has imported everything
- `broken`: values that are wrong, and JSON that is none
- `recipes`, `models`, `adapters` and others: one file for each kind of input
"""
