"""What was trained, taken elsewhere: fused models, and adapters as other programs read them."""
