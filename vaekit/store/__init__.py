"""Run folders, checkpoints, and runs read back from disk."""
