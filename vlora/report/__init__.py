"""What people look at: rows as the model sees them, counts of all rows."""
