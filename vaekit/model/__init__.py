"""The model: a VAE composed of parts, the objective that trains it, and their assembly from a spec."""
