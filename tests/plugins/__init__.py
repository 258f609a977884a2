"""The plugins' arithmetic on the CPU, their kernels under nvcc, and their library under TensorRT's headers."""
