"""Export of trained models to files for other programs, with metadata and verification."""
