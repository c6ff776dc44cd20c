"""Synthetic shapes for vaekit; an entry point refers to `shapes`."""
