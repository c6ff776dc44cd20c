"""Hamiltonian VAEs for vaekit; entry points refer to `hvae` and `rhvae`."""
