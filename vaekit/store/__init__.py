"""What lies on disk: run folders, checkpoints, and runs read back from them."""
