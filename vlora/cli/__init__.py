"""The command line: the only part that prints, reads arguments and listens to Ctrl-C.

`main` finds the command and calls it; each command is a file that is imported when it is called:

- `make_parser()` gives the parser of its arguments;
- `prepare(parsed)` gives the function that carries it out on a `Screen` and returns the exit status. Where the parser
  takes a recipe, `main` has read it: `parsed.recipe`.

What a command prints is for people. `Screen.tell` prints what programs read (`--json`), and what stands within
`Screen.result` is printed with `--quiet`, too.

What carries out a command is imported when its recipe has been read: no mistake in a recipe waits for mlx-vlm,
transformers and datasets. To add a command, add such a file and its name to `main.COMMANDS`;
the folder grows with the commands.
"""
