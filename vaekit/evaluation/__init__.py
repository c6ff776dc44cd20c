"""Evaluation: the same metrics for every model, computed on sampled codes and averaged over images."""
