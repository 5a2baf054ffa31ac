"""What the GDN kernels must do, as functions of a device: run interpreted on the host and compiled on a GPU."""
