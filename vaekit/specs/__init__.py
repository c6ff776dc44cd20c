"""Specs, which describe a run as data; the options that set them; and the single source of their defaults."""
