"""Trained models as files for other programs: what is written, what is said about it, and that it is right."""
