"""InfoVAE for vaekit; entry points refer to `mmd` and `shapes`."""
