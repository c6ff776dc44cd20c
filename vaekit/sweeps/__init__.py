"""Many models: grids of options, models stepped together, searches shared by processes."""
