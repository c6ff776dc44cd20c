"""Specs, which describe a run as data; the options that set them; and the single place of their defaults."""
