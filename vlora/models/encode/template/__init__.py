"""Conversations written by chat templates, and what of them is learned."""
