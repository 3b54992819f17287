"""Exit statuses of commands."""

DONE = 0
FAILED_CHECK = 1
UNFORESEEN = 1
"""The command ended with an error that vlora did not foresee."""
USER_ERROR = 2
"""The user can mend what the command ended with."""
INTERRUPTED = 130
"""As if SIGINT had ended the program."""
UNREAD = 141
"""As if SIGPIPE had ended the program: nothing reads what it prints any more."""
