"""Kernels of GDN layers that hardpoint offers, in place of vLLM's where ``HARDPOINT_KERNELS`` says so."""
