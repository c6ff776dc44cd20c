"""Training: one step, the loop around it, and what a run tells while it works."""
