"""What a run is, as data: specs, the options that set them, and the one place of their defaults."""
