"""Where and how tensors are computed: devices, memory layouts, CUDA graphs, processes. It knows torch, and no model."""
