"""Images opened, decoded and resized."""
