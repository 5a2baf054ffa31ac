"""Triton kernels that vLLM launches run on the device of their tensors, in every process."""
