"""The command line: the only part that prints, reads arguments and listens to Ctrl-C."""
