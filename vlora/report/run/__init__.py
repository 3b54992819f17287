"""Views of a run: its numbers, its charts, its page."""
