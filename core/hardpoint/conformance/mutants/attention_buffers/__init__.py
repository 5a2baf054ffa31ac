"""Attention and GDN buffers with a fault, one idea per file, and ones that are different and right."""
