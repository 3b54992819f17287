"""`[features]`: what a frozen tower makes of images, kept in memory and on disk."""
