"""Training many models: grids of options, models trained in one stack, and searches shared by several processes."""
