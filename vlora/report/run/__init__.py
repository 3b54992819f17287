"""What people look at of a run: its numbers, its charts, its page."""
