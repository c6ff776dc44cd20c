"""Measurements of speed, with the machine and the versions that they belong to."""
