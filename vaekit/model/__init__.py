"""The model: a VAE of parts, the objective that trains it, and their assembly from a spec."""
