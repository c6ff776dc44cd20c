"""The model: a VAE composed of parts, its training objective, and their assembly from a spec."""
