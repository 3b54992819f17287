"""Exit statuses of commands."""

DONE = 0
FAILED_CHECK = 1
UNFORESEEN = 1
"""The command ended with an error that vlora did not foresee."""
USER_ERROR = 2
"""The command ended with an error that the user can correct."""
INTERRUPTED = 130
"""As if SIGINT had ended the program."""
UNREAD = 141
"""As if SIGPIPE had ended the program: its output has no reader any more."""
