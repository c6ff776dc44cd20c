"""Evaluation: the same numbers for every model, on sampled codes, weighted by images."""
