"""Answers of a batch of prompts, token by token, by the forward that is trained."""
