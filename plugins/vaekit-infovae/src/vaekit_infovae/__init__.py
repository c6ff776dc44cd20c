"""InfoVAE for vaekit; entry points lead to `mmd` and `shapes`."""
