"""What is measured, and how; nothing here is imported by vlora or by its tests' default run."""
