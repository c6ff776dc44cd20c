"""Where and how tensors are computed: devices, memory formats, CUDA graphs and processes; independent of any model."""
