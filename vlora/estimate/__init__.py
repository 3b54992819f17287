"""What a recipe will need, planned without running it."""
