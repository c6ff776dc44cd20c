"""Training many models: grids of options, stacked training, and searches shared by several processes."""
