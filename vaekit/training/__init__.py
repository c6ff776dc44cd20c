"""Training: the step, the loop around it, and the logging, checkpoints and pictures of a run."""
