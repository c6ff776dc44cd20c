"""Devices, memory formats, CUDA graphs and processes; independent of any model."""
