"""Views of rows and runs: rows as the model sees them, counts of all rows, pages and charts."""
