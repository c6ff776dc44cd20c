"""Built-in pictures."""
